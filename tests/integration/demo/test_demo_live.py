"""`rdpbalancer demo`, live: drawn on a terminal, lines elsewhere, and gone without a trace when it ends."""

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.demo.shows import END_S, Show, TerminalShow, short_folder
from tests.support.wait import wait_until

pytestmark = pytest.mark.slow

ENDS_WITHIN_S = 10


@pytest.fixture
def folder() -> Iterator[Path]:
    """Where the demonstration may put temporary files."""
    with short_folder() as made:
        yield made


def test_in_a_pipe_it_prints_lines(folder: Path) -> None:
    """Scenes in words, totals, and a verdict: no control sequence, one thing per line, exit status 0."""
    with Show(folder, "--seconds", "7", "--seed", "1") as show:
        assert 0 == show.process.wait(END_S), show.process.describe()
        output = show.process.output()
        assert "\x1b" not in output
        assert re.search(r"(?m)^0:0\d  Users come, work, leave, and come back \(rdpbalancer show ", output)
        assert re.search(r"(?m)^0:\d\d     ts1 up online \d+, .*; 0 sessions cut off$", output)
        assert re.match(r"verdict: 12 users, \d+ visits, every return reached", show.lines[-1])
        assert [] == show.left_over()


def test_on_a_terminal_it_draws_and_ctrl_c_ends_it(folder: Path) -> None:
    """It draws on the other screen, and gives the terminal back with the verdict; nothing is left behind."""
    with TerminalShow(folder) as show:
        show.wait_for("real servers, as the balancer sees them")
        show.wait_for("● ")
        show.wait_for("alice")
        # The demonstration, and the balancer: supervisor, router, two relays.
        assert 5 == len(show.processes())
        assert 0 == show.end(signal.SIGINT, ENDS_WITHIN_S)
        before, _, after = show.text.rpartition("\x1b[?1049l")
        assert "\x1b[?1049h" in before
        assert re.search(r"verdict: 12 users, \d+ visits, every return reached", after)
        assert "Traceback" not in show.text
        assert [] == show.left_over()


def test_no_color_asks_for_lines(folder: Path) -> None:
    """With NO_COLOR nothing is drawn, not even on a terminal."""
    with TerminalShow(folder, "--seconds", "2", env={"NO_COLOR": "1"}) as show:
        assert 0 == show.process.wait(END_S)
        show.wait_for("verdict: ")
        assert "\x1b" not in show.text


def test_a_small_terminal_gets_lines(folder: Path) -> None:
    """What would not fit is not drawn."""
    with TerminalShow(folder, "--seconds", "2", columns=50, rows=10) as show:
        assert 0 == show.process.wait(END_S)
        show.wait_for("verdict: ")
        assert "\x1b[?1049h" not in show.text


@pytest.mark.parametrize(
    ("number", "moment"),
    [
        (signal.SIGINT, "folder"),
        (signal.SIGINT, "process"),
        (signal.SIGINT, "socket"),
        (signal.SIGINT, "users"),
        (signal.SIGTERM, "users"),
        (signal.SIGHUP, "users"),
    ],
)
def test_it_can_be_ended_at_any_time(folder: Path, moment: str, number: signal.Signals) -> None:
    """Also while it starts; a second Ctrl-C does not disturb the cleaning up."""
    with Show(folder) as show:
        reached = {
            "folder": lambda: any(folder.iterdir()),
            "process": show.process.children,
            "socket": lambda: any(folder.glob("*/run/control.sock")),
            "users": lambda: "Users come" in show.process.output(),
        }[moment]
        show.process.wait_for(reached, 20, f"the {moment} of the demonstration")
        os.kill(show.process.pid, number)
        os.kill(show.process.pid, number)
        assert 0 == show.process.wait(ENDS_WITHIN_S + 5), show.process.describe()
        assert "Traceback" not in show.process.output()
        assert [] == show.left_over()


def test_a_balancer_that_ends_is_told(folder: Path) -> None:
    """The show ends with its log, and exit status 1."""
    with Show(folder) as show:
        show.process.wait_for_output("Users come", 20)
        os.kill(show.wait_for_balancer(), signal.SIGKILL)
        assert 1 == show.process.wait(ENDS_WITHIN_S + 5), show.process.describe()
        assert "the balancer has ended; its log:" in show.process.output()
        wait_until(lambda: not show.process.children(), 10, "the end of the balancer's processes")
        assert [] == show.left_over()
