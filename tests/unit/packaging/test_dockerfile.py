"""The Dockerfile's invariants: what must be true of every image, without building one."""

import json
import re

import pytest

from rdpbalancer import __version__
from rdpbalancer.settings.load import load
from tests.unit.packaging.pages import REPOSITORY

_INSTRUCTION = re.compile(r"^([A-Z]+) (.*)$")


def _instructions() -> list[tuple[str, str]]:
    """Return every instruction with its arguments; continued lines are joined, comments left out."""
    text = (REPOSITORY / "Dockerfile").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    matches = [_INSTRUCTION.match(line) for line in joined.splitlines()]
    assert all(matches), "a line that is no instruction"
    return [(match[1], match[2]) for match in matches if match is not None]


def _stages() -> list[list[tuple[str, str]]]:
    stages: list[list[tuple[str, str]]] = []
    for instruction in _instructions():
        if instruction[0] == "FROM":
            stages.append([])
        stages[-1].append(instruction)
    return stages


def _final(name: str) -> list[str]:
    return [arguments for instruction, arguments in _stages()[-1] if instruction == name]


def test_base_images_are_pinned() -> None:
    """Every stage begins with one and the same Python, by its full version."""
    bases = {stage[0][1].split()[0] for stage in _stages()}
    assert 1 == len(bases)
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+", bases.pop())


def test_nothing_is_latest() -> None:
    """No tag moves under us."""
    assert ":latest" not in (REPOSITORY / "Dockerfile").read_text(encoding="utf-8")


def test_what_is_fetched_is_locked() -> None:
    """Whatever pip installs has its hash in a lock, or is there already; and nothing is resolved or built."""
    runs = [arguments for instruction, arguments in _instructions() if instruction == "RUN"]
    installs = [part for run in runs for part in run.split("&&") if "pip install" in part]
    assert 3 == len(installs)
    locked = "--no-deps --only-binary :all: --require-hashes -r requirements/"
    assert [] == [part for part in installs if locked not in part and "--no-deps --no-index" not in part]


def test_the_service_is_not_root() -> None:
    """The last word on the user is a number, not 0, that was made before, and nothing runs after it."""
    stage = _stages()[-1]
    (user,) = _final("USER")
    uid, _, gid = user.partition(":")
    assert "0" not in {uid, gid}
    assert any(f"--uid {uid}" in run and f"--gid {gid}" in run for run in _final("RUN"))
    names = [instruction for instruction, _ in stage]
    assert "RUN" not in names[names.index("USER") :]


def test_health_is_asked_of_the_service() -> None:
    """The health check is the command line's own; Docker reserves every exit code but 0 and 1."""
    (check,) = _final("HEALTHCHECK")
    assert ["CMD", '["sh", "-c", "rdpbalancer --quiet status || exit 1"]'] == check.split("  ")[-1].split(
        " ", 1
    )


@pytest.mark.parametrize(
    ("instruction", "expected"),
    [
        ("STOPSIGNAL", ["SIGTERM"]),
        ("EXPOSE", ["3389 9389"]),
        ("VOLUME", ["/var/lib/rdpbalancer"]),
    ],
)
def test_the_image_says_what_it_is(instruction: str, expected: list[str]) -> None:
    """Signal, ports and volume are those of the documentation."""
    assert expected == _final(instruction)


def test_the_program_is_process_1() -> None:
    """No shell stands between Docker's signals and the service."""
    assert ["rdpbalancer"] == json.loads(_final("ENTRYPOINT")[0])
    assert ["run", "-c", "/etc/rdpbalancer/rdpbalancer.yaml"] == json.loads(_final("CMD")[0])


def test_the_label_has_the_version() -> None:
    """A new version needs a new label."""
    (labels,) = _final("LABEL")
    assert f'org.opencontainers.image.version="{__version__}"' in labels


def test_what_is_copied_is_sent_to_the_builder() -> None:
    """.dockerignore lets through what the build stage copies, and nothing else."""
    copied = {
        word.rstrip("/")
        for name, arguments in _stages()[0]
        if name == "COPY"
        for word in arguments.split()[:-1]
    }
    lines = (REPOSITORY / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert copied == {line[1:] for line in lines if line.startswith("!")}
    assert "*" in lines
    assert all((REPOSITORY / name).exists() for name in copied)


def test_the_container_s_configuration_lets_metrics_out() -> None:
    """Inside a container 127.0.0.1 is nobody else's: the example listens on all addresses."""
    settings = load(REPOSITORY / "config" / "container.yaml", environ={})
    assert settings.global_.metrics.listen is not None
    assert ("0.0.0.0", 9389) == tuple(settings.global_.metrics.listen)
    assert {3389} == {endpoint.port for endpoint in settings.virtual_services[0].listen}
