"""The lines of the fixed script."""

import io

import pytest
from rich.console import Console

from rdpbalancer.lab.demo.report import Report


def lines_of(report: Report) -> list[str]:
    """What was printed."""
    assert isinstance(report.console.file, io.StringIO)
    return report.console.file.getvalue().splitlines()


@pytest.fixture
def report() -> Report:
    """A report into a pipe that is narrower than its lines."""
    return Report(Console(file=io.StringIO(), width=20))


def test_checks_are_told_as_they_come_out(report: Report) -> None:
    """Good ones as they are, bad ones with what is the case instead; only bad ones are problems."""
    report.step("The users arrive [all of them]")
    report.check(ok=True, said="each has a desktop", otherwise="nobody has")
    report.check(ok=False, said="all 30 are back", otherwise="only 9 are")
    report.check(ok=False, said="they are shared out")
    assert [
        " 1. The users arrive [all of them]",
        "    ✓ each has a desktop",
        "    ✗ not so: all 30 are back: only 9 are",
        "    ✗ not so: they are shared out",
    ] == lines_of(report)
    assert ["not so: all 30 are back: only 9 are", "not so: they are shared out"] == report.problems


def test_a_line_stays_one_line(report: Report) -> None:
    """However long: who reads a verdict in a pipe reads the last line."""
    report.say("verdict: " + "x" * 500)
    assert ["verdict: " + "x" * 500] == lines_of(report)


def test_ascii_has_words_for_signs() -> None:
    """Where the output cannot hold a check mark."""
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    report = Report(Console(file=file))
    report.check(ok=True, said="good")
    report.check(ok=False, said="bad")
    file.flush()
    assert isinstance(file.buffer, io.BytesIO)
    assert b"    ok good\n    FAILED: not so: bad\n" == file.buffer.getvalue()
