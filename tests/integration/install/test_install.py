"""The Makefile's set-up: exactly the locked files, with any pip, whatever the index offers meanwhile."""

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.integration.install.index import Index, wheel

REPOSITORY: Final = Path(__file__).parents[3]
# Up to three environments a test, each some seconds of work for ensurepip, and more on a busy machine.
pytestmark = pytest.mark.timeout(240)

_PYTHON: Final = str(Path(sys._base_executable).resolve())  # type: ignore[attr-defined]
_SAY_ARGUMENTS: Final = "import sys; print('pytest', *sys.argv[1:])"
_SAY_COMMAND: Final = (
    "import os, sys\ndef main(): print(os.path.basename(sys.argv[0]), *sys.argv[1:], flush=True)\n"
)
_RUNTIME: Final = {"alpha", "beta", "gamma"}
_DEVELOPERS: Final = {*_RUNTIME, "pytest", "linters"}


class Clone:
    """The real Makefile and installer in a folder of their own, with locks of tiny packages."""

    def __init__(self, root: Path, index: Index) -> None:
        self.root = root
        self.venv = root / ".venv"
        self.index = index
        (root / "requirements").mkdir(parents=True)
        for name in ("Makefile", "pyproject.toml", "requirements/install.py"):
            if (REPOSITORY / name).exists():
                shutil.copy(REPOSITORY / name, root / name)
        (root / "rdpbalancer").mkdir()
        (root / "rdpbalancer" / "__init__.py").touch()
        (root / "rdpbalancer" / "__main__.py").write_text(
            "import sys, alpha; print('rdpbalancer', *sys.argv[1:], 'with alpha', alpha.__version__)\n"
        )
        # As coverage[toml] is asked for by pytest-cov: with an extra, and by a lower bound.
        runtime = [
            index.add(wheel("alpha", "1.0", requires=("beta[more]>=1.0",))),
            index.add(wheel("beta", "1.0", requires=('gamma>=1.0; extra == "more"',))),
            index.add(wheel("gamma", "1.0")),
        ]
        pytest_ = index.add(wheel("pytest", "1.0", requires=("beta[more]>=1.0",), main=_SAY_ARGUMENTS))
        self.lock("runtime").write_text("".join(runtime))
        programs = ("ruff", "mypy", "lint-imports")
        linters = index.add(wheel("linters", "1.0", main=_SAY_COMMAND, programs=programs))
        self.lock("dev").write_text("".join([*runtime, pytest_, linters]))
        for name in sorted(_DEVELOPERS):
            index.add(wheel(name, "1.1", requires=("delta",)))
            index.add(wheel(name, "2.0", requires=("delta",)))

    def lock(self, name: str) -> Path:
        """Return a lock's path."""
        return self.root / "requirements" / f"{name}.lock"

    def make(self, *targets: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run make with the index of this machine being ours."""
        plain = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.root),
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_INDEX_URL": self.index.url,
            "PIP_CACHE_DIR": str(self.root / "cache"),
        }
        python = [] if any(target.startswith("PYTHON=") for target in targets) else [f"PYTHON={_PYTHON}"]
        command = ["make", "--no-print-directory", "-C", str(self.root), *python, *targets]
        return subprocess.run(
            command, check=False, capture_output=True, text=True, timeout=200, env={**plain, **environment}
        )

    def installed(self) -> dict[str, str]:
        """Return the packages of the environment with their versions, pip's own left out."""
        code = (
            "import json, importlib.metadata as m;"
            "print(json.dumps({d.metadata['Name']: d.version for d in m.distributions()}))"
        )
        done = subprocess.run(
            [self.venv / "bin" / "python", "-I", "-c", code], check=True, capture_output=True, text=True
        )
        found: dict[str, str] = json.loads(done.stdout)
        return {
            name: version for name, version in found.items() if name not in {"pip", "setuptools", "wheel"}
        }

    def use_pip(self, pip: Path) -> None:
        """Make the environment beforehand, with a pip of our choice."""
        subprocess.run([_PYTHON, "-m", "venv", "--without-pip", self.venv], check=True)
        run = [str(self.venv / "bin" / "python"), f"{pip}/pip", "install", "-qq", "--no-index", str(pip)]
        subprocess.run(run, check=True, env={"PIP_CONFIG_FILE": os.devnull})


@pytest.fixture
def index() -> Iterator[Index]:
    """An index on loopback."""
    serving = Index()
    yield serving
    serving.close()


@pytest.fixture
def clone(tmp_path: Path, index: Index) -> Clone:
    """A clone whose index has moved on since the locks were made."""
    return Clone(tmp_path / "a clone", index)


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an environment with nothing but pip: making one is most of the work of a test here."""
    venv = tmp_path_factory.mktemp("empty") / "venv"
    subprocess.run([_PYTHON, "-m", "venv", venv], check=True)
    return venv


@pytest.fixture
def begun(clone: Clone, empty: Path) -> Clone:
    """Return a clone whose environment is made, and empty."""
    shutil.copytree(empty, clone.venv, symlinks=True)
    return clone


@pytest.fixture(scope="module")
def pips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The oldest pip that is promised, and the newest there is, from this machine's own index."""
    found = {}
    for which, wanted in (("oldest", "pip==22.0"), ("newest", "pip")):
        folder = tmp_path_factory.mktemp(which)
        command = [sys.executable, "-m", "pip", "download", "-qq", "--no-deps", "-d", str(folder), wanted]
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=50)
        if done.returncode:
            lacking = f"{wanted} cannot be fetched from this machine's package index: {done.stderr.strip()}"
            if os.environ.get("RDPBALANCER_REQUIRE_E2E"):
                pytest.fail(lacking)
            pytest.skip(lacking)
        (found[which],) = folder.iterdir()
    return found


def _installs_exactly_the_locks(clone: Clone) -> None:
    demo = clone.make("demo", "DEMO_ARGS=--once")
    assert (0, "rdpbalancer demo --once with alpha 1.0\n") == (demo.returncode, demo.stdout), demo.stderr
    assert dict.fromkeys(_RUNTIME, "1.0") == clone.installed()
    for target, folders in (("test", []), ("test-fast", ["tests/unit", "tests/property", "tests/contract"])):
        tests = clone.make(target)
        assert 0 == tests.returncode, tests.stdout + tests.stderr
        program, *arguments = tests.stdout.splitlines()[-1].split()
        assert ("pytest", folders) == (program, [word for word in arguments if word.startswith("tests/")])
    lint = clone.make("lint")
    said = [line for line in lint.stdout.splitlines() if not line.startswith(".venv")]
    assert (0, ["ruff check .", "ruff format --check .", "mypy", "lint-imports"]) == (lint.returncode, said)
    assert dict.fromkeys(_DEVELOPERS, "1.0") == clone.installed()
    assert _DEVELOPERS == set(clone.index.asked)
    assert {f"{name}-1.0-py3-none-any.whl" for name in _DEVELOPERS} == set(clone.index.fetched)


@pytest.mark.parametrize("which", ["oldest", "newest"])
def test_a_newer_index_changes_nothing(clone: Clone, pips: dict[str, Path], which: str) -> None:
    """The locked files are installed, no other project is asked for, and no other file is fetched."""
    if which == "oldest" and sys.version_info >= (3, 12):
        pytest.skip("pip 22.0 does not run with this Python, which never came with it")
    clone.use_pip(pips[which])
    _installs_exactly_the_locks(clone)


def test_a_newer_index_changes_nothing_for_the_pip_that_python_brings(clone: Clone) -> None:
    """The environment is made by `make`, with the pip of this Python's ensurepip."""
    _installs_exactly_the_locks(clone)


def test_what_is_in_order_is_left_alone(begun: Clone) -> None:
    """A second target installs nothing; neither does the demo after the tests, which have all it needs."""
    assert 0 == begun.make("test-fast").returncode
    begun.index.forget()
    for target in ("test-fast", "demo", "test-fast"):
        done = begun.make(target)
        assert (0, "") == (done.returncode, done.stderr)
    assert [] == begun.index.asked + begun.index.fetched


def test_a_new_lock_is_installed(begun: Clone) -> None:
    """With the next pull comes another version: it replaces the old one."""
    assert 0 == begun.make("demo").returncode
    line = begun.index.add(wheel("alpha", "3.0"))
    begun.lock("runtime").write_text(line)
    assert "with alpha 3.0" in begun.make("demo").stdout
    assert "3.0" == begun.installed()["alpha"]


def test_this_machine_s_pip_configuration_decides_only_where_packages_come_from(begun: Clone) -> None:
    """Constraints, `user`, `target` and the like change nothing; the index is taken from there."""
    constraints = begun.root / "constraints.txt"
    constraints.write_text("alpha==2.0\nbeta>1.0\n")
    configuration = begun.root / "pip.conf"
    configuration.write_text(
        f"[global]\nindex-url = {begun.index.url}\nconstraint = {constraints}\n"
        f"[install]\nuser = true\npre = true\nno-binary = :all:\ntarget = {begun.root}/elsewhere\n"
    )
    done = begun.make(
        "demo",
        PIP_CONFIG_FILE=str(configuration),
        PIP_INDEX_URL="",
        PIP_DRY_RUN="1",
        PIP_REQUIREMENT=str(constraints),
    )
    assert (0, "rdpbalancer demo with alpha 1.0\n") == (done.returncode, done.stdout), done.stderr
    assert dict.fromkeys(_RUNTIME, "1.0") == begun.installed()


def test_a_file_that_is_not_the_locked_one_is_refused(begun: Clone) -> None:
    """By its hash, with a sentence; and the next try, with the right file, mends it."""
    right = begun.index.files["gamma-1.0-py3-none-any.whl"]
    begun.index.files["gamma-1.0-py3-none-any.whl"] = wheel("gamma", "1.0", main="print('evil')")[1]
    done = begun.make("demo")
    assert 0 != done.returncode
    assert "pip could not install what requirements/runtime.lock lists" in done.stderr
    assert "Traceback" not in done.stderr
    begun.index.files["gamma-1.0-py3-none-any.whl"] = right
    assert 0 == begun.make("demo").returncode


@pytest.mark.parametrize("damage", ["interrupted", "python gone", "moved", "no pip"])
def test_a_broken_environment_is_made_anew(clone: Clone, empty: Path, damage: str) -> None:
    """One that was left half way, or whose Python was removed, is repaired, and why is said."""
    if damage == "interrupted":
        (clone.venv / "bin").mkdir(parents=True)
    elif damage == "no pip":
        subprocess.run([_PYTHON, "-m", "venv", "--without-pip", clone.venv], check=True)
    else:
        shutil.copytree(empty, clone.venv, symlinks=True)
        assert 0 == clone.make("demo").returncode
    if damage == "python gone":
        for name in ("python", "python3", Path(_PYTHON).name):
            (clone.venv / "bin" / name).unlink(missing_ok=True)
            (clone.venv / "bin" / name).symlink_to("/nonexistent/python")
    elif damage == "moved":
        clone.root = clone.root.rename(clone.root.with_name("elsewhere"))
        clone.venv = clone.root / ".venv"
    done = clone.make("demo")
    assert (0, "rdpbalancer demo with alpha 1.0\n") == (done.returncode, done.stdout), done.stderr
    assert "Traceback" not in done.stderr
    # Without a pip of its own an environment is filled by the pip of the Python that made it, if it has one.
    assert damage == "no pip" or "is made anew: it" in done.stderr


def test_a_folder_of_somebody_s_is_not_touched(clone: Clone) -> None:
    """`.venv` that is something else is not emptied."""
    clone.venv.mkdir()
    (clone.venv / "diary.txt").write_text("mine")
    done = clone.make("demo")
    assert 0 != done.returncode
    assert ".venv is there, and is no virtual environment: move it away, then try again" in done.stderr
    assert "mine" == (clone.venv / "diary.txt").read_text()


def test_an_older_python_is_refused_in_a_sentence(clone: Clone, tmp_path: Path) -> None:
    """Also one that does not run at all."""
    old = tmp_path / "python3.9"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    for python in (old, tmp_path / "missing"):
        done = clone.make("demo", f"PYTHON={python}")
        assert 0 != done.returncode
        assert f"rdpbalancer needs Python 3.11 or later, and none of these is: {python}." in done.stderr
    assert not clone.venv.exists()


def test_two_at_once(clone: Clone) -> None:
    """The second waits for the first, and finds everything in order."""
    results: list[subprocess.CompletedProcess[str]] = []
    both = [threading.Thread(target=lambda: results.append(clone.make("demo"))) for _ in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert [0, 0] == [done.returncode for done in results], results
    assert len(set(clone.index.fetched)) == len(clone.index.fetched)


def test_the_program_runs_from_anywhere(begun: Clone, tmp_path: Path) -> None:
    """`.venv/bin/rdpbalancer` runs this clone's code, whatever lies in the folder one is in."""
    assert 0 == begun.make("demo").returncode
    (tmp_path / "alpha.py").write_text("raise SystemExit('not this one')")
    program = [str(begun.venv / "bin" / "rdpbalancer"), "status"]
    done = subprocess.run(program, check=False, capture_output=True, text=True, cwd=tmp_path, timeout=30)
    assert "rdpbalancer status with alpha 1.0\n" == done.stdout
