"""The locks: complete by themselves, for nothing is resolved when they are installed."""

import re
import tomllib
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, distribution
from typing import Any, Final

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.unit.packaging.pages import REPOSITORY

_LOCKS: Final = REPOSITORY / "requirements"
_PROJECT: Final[dict[str, Any]] = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
_PYTHONS: Final = ("3.11.2", "3.12.1", "3.13.0", "3.14.0")
_MACHINES: Final = ("x86_64", "aarch64")


def _entries(name: str) -> dict[str, tuple[Version, Marker | None]]:
    """Return what a lock lists: the version of each package, and where it is wanted."""
    text = (_LOCKS / f"{name}.lock").read_text(encoding="utf-8").replace("\\\n", " ")
    found: dict[str, tuple[Version, Marker | None]] = {}
    for line in text.splitlines():
        if line[:1].isalnum():
            entry = Requirement(line.partition(" --hash=")[0])
            found[canonicalize_name(entry.name)] = (
                Version(str(entry.specifier).removeprefix("==")),
                entry.marker,
            )
    return found


def _wanted(name: str) -> list[str]:
    """Return what is asked for in pyproject.toml."""
    groups = _PROJECT["dependency-groups"]
    if name == "build":
        return [*groups["build"]]
    return [*_PROJECT["project"]["dependencies"], *(groups["dev"] if name == "dev" else [])]


def _environment(python: str, machine: str, implementation: str) -> dict[str, str]:
    return {
        "implementation_name": implementation.lower(),
        "implementation_version": python,
        "os_name": "posix",
        "platform_machine": machine,
        "platform_python_implementation": implementation,
        "platform_release": "",
        "platform_system": "Linux",
        "platform_version": "",
        "python_full_version": python,
        "python_version": python.rpartition(".")[0],
        "sys_platform": "linux",
    }


def _missing(name: str, environment: Mapping[str, str]) -> Iterator[str]:
    """Yield what is needed there, and is not in the lock in a version that would do."""
    locked = _entries(name)
    due = [(Requirement(text), "pyproject.toml", "") for text in _wanted(name)]
    seen: set[tuple[str, str]] = set()
    while due:
        need, by, by_extra = due.pop()
        if need.marker is not None and not need.marker.evaluate({**environment, "extra": by_extra}):
            continue
        project = canonicalize_name(need.name)
        version, marker = locked.get(project, (None, None))
        if version is None or (marker is not None and not marker.evaluate({**environment, "extra": ""})):
            yield f"{need} for {by}: not in the lock"
            continue
        if not need.specifier.contains(version, prereleases=True):
            yield f"{need} for {by}: the lock has {version}"
        try:
            more = distribution(project).requires or []
        except PackageNotFoundError:  # of another platform, or a build tool; what it needs is not known here
            continue
        for extra in {"", *need.extras}:
            if (project, extra) not in seen:
                seen.add((project, extra))
                due += [(Requirement(text), project, extra) for text in more]


@pytest.mark.parametrize("name", ["runtime", "dev", "build"])
@pytest.mark.parametrize("implementation", ["CPython", "PyPy"])
@pytest.mark.parametrize("machine", _MACHINES)
@pytest.mark.parametrize("python", _PYTHONS)
def test_a_lock_has_all_that_is_needed(name: str, python: str, machine: str, implementation: str) -> None:
    """On every interpreter and machine, in versions that satisfy who asks for it."""
    assert [] == list(_missing(name, _environment(python, machine, implementation)))


def test_developers_have_what_users_have() -> None:
    """One environment serves the demo and the tests: the same packages, in the same versions."""
    developers = _entries("dev")
    assert _entries("runtime") == {name: developers.get(name) for name in _entries("runtime")}


def test_users_get_nothing_of_the_developers() -> None:
    """Neither a test runner nor what builds wheels."""
    assert not {"pytest", "ruff", "mypy", "hatchling", "setuptools", "pip"} & set(_entries("runtime"))


@pytest.mark.parametrize("name", ["runtime", "dev", "build"])
def test_every_file_has_a_hash(name: str) -> None:
    """An entry without one would make pip refuse them all."""
    text = (_LOCKS / f"{name}.lock").read_text(encoding="utf-8")
    parts = [part for part in re.split(r"^(?=[a-z0-9])", text, flags=re.MULTILINE) if part.strip()]
    assert len(parts) == len(_entries(name))
    assert [] == [part.split()[0] for part in parts if "--hash=sha256:" not in part]


def test_the_wheel_is_built_as_it_is_locked() -> None:
    """What pyproject.toml asks for to build the wheel is what the lock for it was made of."""
    assert _PROJECT["build-system"]["requires"] == _PROJECT["dependency-groups"]["build"]
