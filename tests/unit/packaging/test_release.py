"""Interpreters and release tests: what is claimed is run, and old results are told."""

import datetime as dt
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Final

import pytest

from tests.pythons.interpreters import VERSIONS, find, install
from tests.release.results import Result, read, warnings, write
from tests.unit.packaging.pages import REPOSITORY

_TODAY: Final = dt.date(2026, 11, 26)


def _result(date: str, result: str = "passed: 10 of 10 rounds") -> Result:
    return Result(commit="abc1234", date=date, result=result)


def test_the_classifiers_are_the_versions_that_are_tested() -> None:
    """A claim without a test is none."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    begin = "Programming Language :: Python :: "
    claimed = [text.removeprefix(begin) for text in project["classifiers"] if text.startswith(begin)]
    assert list(VERSIONS) == claimed


def test_ci_tries_every_version() -> None:
    """The loop in .ci/run is over the same list."""
    assert f"for version in {' '.join(VERSIONS)}; do" in (REPOSITORY / ".ci" / "run").read_text(
        encoding="utf-8"
    )


def test_the_interpreter_that_runs_this_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """By PATH; a name that does not run, as pyenv leaves them, is passed over."""
    own = f"{sys.version_info[0]}.{sys.version_info[1]}"
    (tmp_path / f"python{own}").symlink_to(Path(sys.executable).resolve())
    dead = tmp_path / "python3.99"
    dead.write_text("#!/bin/sh\nexit 127\n")
    dead.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    found = find(own)
    assert found is not None
    assert str(tmp_path / f"python{own}") == found.program
    assert find("3.99") is None


def test_what_debian_does_not_have_is_said(tmp_path: Path) -> None:
    """No download is tried for it."""
    assert "no release of Debian has it" == install("3.12", tmp_path, tmp_path)


@pytest.mark.parametrize(
    ("results", "expected"),
    [
        ({"repeat": _result("2026-11-12")}, []),
        (
            {"repeat": _result("2026-11-11")},
            ["repeat was last run 15 days ago, at abc1234: make test-release"],
        ),
        ({}, ["repeat has not been run yet: make test-release"]),
        (
            {"repeat": _result("2026-11-25", "FAILED: 9 of 10 rounds")},
            ["repeat of 2026-11-25 (abc1234): FAILED: 9 of 10 rounds"],
        ),
    ],
)
def test_old_results_are_told(results: dict[str, Result], expected: list[str]) -> None:
    """From the fifteenth day on, and failures and gaps at once."""
    assert expected == warnings(results, ("repeat",), _TODAY)


def test_a_part_has_one_line(tmp_path: Path) -> None:
    """The last result takes the place of the one before; the others stay."""
    path = tmp_path / "release.json"
    for part, date in (("soak", "2026-11-01"), ("repeat", "2026-11-01"), ("repeat", "2026-11-02")):
        write(path, part, _result(date))
    assert {"repeat": _result("2026-11-02"), "soak": _result("2026-11-01")} == read(path)
    assert 4 == len(path.read_text(encoding="utf-8").splitlines())


@pytest.mark.parametrize(("content", "code"), [("assert True", 0), ("assert False", 1)])
def test_repeating(tmp_path: Path, content: str, code: int) -> None:
    """Every round is run, its seed is printed, and one failure is the verdict."""
    (tmp_path / "test_one.py").write_text(f"def test_it():\n    {content}\n")
    results = tmp_path / "release.json"
    options = ["--rounds", "2", "--folder", str(tmp_path), "--results", str(results), "repeat"]
    command = [sys.executable, "-m", "tests.release", *options]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=REPOSITORY, timeout=50)
    assert code == done.returncode, done.stdout + done.stderr
    assert 2 == done.stdout.count("--randomly-seed=")
    verdict = f"{'FAILED' if code else 'passed'}: {0 if code else 2} of 2 rounds of {tmp_path}"
    assert done.stdout.splitlines()[-1].startswith(f"repeat: {verdict}")
    assert read(results)["repeat"]["result"].startswith(verdict)
