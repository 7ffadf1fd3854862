"""The code that runs, kept in memory: whatever becomes of its files."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rdpbalancer import __version__
from rdpbalancer.runtime import program
from rdpbalancer.runtime.program import Program


@pytest.fixture
def kept() -> Iterator[Program]:
    """Return this very program; its archive is closed at the end."""
    made = program.own()
    yield made
    os.close(made.code)


def said_by(kept: Program, code: str, folder: Path, **environ: str) -> str:
    """Return what a Python of that program prints, started in a folder."""
    done = subprocess.run(
        [*kept.command("x")[:-2], "-c", code],
        cwd=folder,
        env={**kept.environ(), **environ},
        pass_fds=kept.descriptors,
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    return done.stdout.strip()


def test_what_is_started_is_the_archive_s_code(kept: Program, tmp_path: Path) -> None:
    """Not what lies in the current folder, where a package of the same name would win."""
    (tmp_path / "rdpbalancer").mkdir()
    (tmp_path / "rdpbalancer" / "__init__.py").write_text("raise SystemExit('the wrong one')")
    where = said_by(kept, "import rdpbalancer.runtime.router as r; print(r.__file__)", tmp_path)
    # Compiled (.pyc) where this clone's code has been run before.
    assert f"/proc/self/fd/{kept.code}/rdpbalancer/runtime/router.py" == where.removesuffix("c")
    assert __version__ == said_by(kept, "import rdpbalancer as r; print(r.__version__)", tmp_path)


def test_the_archive_cannot_be_changed(kept: Program) -> None:
    """It is sealed: not by this process, not by one that has it open."""
    with pytest.raises(PermissionError):
        os.write(kept.code, b"x")
    with pytest.raises(PermissionError):
        os.ftruncate(kept.code, 0)
    assert not os.get_inheritable(kept.code)


def test_a_program_of_an_archive_knows_itself(kept: Program, tmp_path: Path) -> None:
    """It has the same mark and descriptor, and its environment is the operator's again."""
    code = (
        "import os; from rdpbalancer.runtime import program; made = program.own();"
        " print(made.mark, made.code, made.installed == '', os.environ.get('PYTHONPATH'),"
        " sorted(name for name in os.environ if name.startswith('RDPBALANCER_')))"
    )
    operators = sorted(name for name in os.environ if name.startswith("RDPBALANCER_"))
    assert f"{kept.mark} {kept.code} True None {operators}" == said_by(kept, code, tmp_path)


def test_every_start_has_its_own_mark(kept: Program) -> None:
    """Of the same code, too: its interpreter or its libraries may be others by then."""
    other = program.own()
    os.close(other.code)
    assert other.mark != kept.mark


def test_without_an_archive_the_installed_code_is_run() -> None:
    """A machine that has no memory files is served as before."""
    plain = Program(sys.executable, __version__)
    assert ([sys.executable, "-m", "rdpbalancer"], []) == (plain.command("rdpbalancer"), plain.descriptors)
    assert "RDPBALANCER_CODE" not in plain.environ()


def test_a_replaced_file_is_noticed(kept: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fingerprint of the installed files changes with any of them."""
    assert kept.installed == program.fingerprint()
    monkeypatch.setattr(program, "_PACKAGE", tmp_path)
    (tmp_path / "a.py").write_text("old")
    before = program.fingerprint()
    (tmp_path / "a.py").write_text("longer")
    assert before != program.fingerprint()
