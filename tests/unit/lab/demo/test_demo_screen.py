"""The picture of the live show: all of it fits, at any size it claims to fit."""

import io
from typing import Any

import pytest
from rich.console import Console
from rich.text import Text

from rdpbalancer.lab.client import Landing
from rdpbalancer.lab.demo.board import Board, Scene
from rdpbalancer.lab.demo.plain import standing
from rdpbalancer.lab.demo.screen import MIN_HEIGHT, MIN_WIDTH, WORDS_ROWS, Screen, fits
from rdpbalancer.lab.demo.story import WORDS
from rdpbalancer.lab.demo.tally import Cause, Tally
from rdpbalancer.lab.population import Visit


def server(name: str, **changes: Any) -> dict[str, Any]:
    """A real server as the control socket shows it."""
    return {"name": name, "health": "up", "state": "online", "weight": 100, "sessions": 0, **changes}


def board(*, users_each: int = 3) -> Board:
    """Three servers, each with as many desktops, whose users are there."""
    tally = Tally()
    for name in ("ts1", "ts2", "ts3"):
        for number in range(1, users_each + 1):
            landing = Landing(name, f"{name}-{number}", returned=False, visit=1, redirects=0)
            tally.arrived(Visit(f"u{name[2]}{number:02}", landing), source="127.64.0.9", now=0.0)
    rows = [
        server("ts1", sessions=users_each),
        server("ts2", state="drain", sessions=5),
        server("ts3", health="down"),
    ]
    made = Board("127.0.0.1:3389", "/tmp/x/run/control.sock", tally, started_at=0.0)
    made.status = {"router": 4711, "relays": {"1": 5, "2": 3}, "servers": rows}
    made.begin(Scene("ts2 is drained", WORDS["drain"], "rdpbalancer drain ts2", "3 came back"))
    return made


def draw(
    shown: Board, *, width: int = 80, height: int = 24, encoding: str = "utf-8", now: float = 83.0
) -> list[str]:
    """Return the lines of the picture."""
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    console = Console(file=file, width=width, height=height, force_terminal=True, color_system=None)
    console.print(Screen(shown, now=now), height=height, end="")
    file.flush()
    assert isinstance(file.buffer, io.BytesIO)
    return file.buffer.getvalue().decode(encoding).splitlines()


def narrow(lines: list[str]) -> str:
    """Return the picture with single blanks, whatever its columns' widths."""
    return " ".join(" ".join(lines).split())


@pytest.mark.parametrize(
    ("width", "height"), [(MIN_WIDTH, MIN_HEIGHT), (80, 24), (120, 40), (200, 60), (81, 25), (132, 31)]
)
@pytest.mark.parametrize("users_each", [0, 3, 50])
def test_it_fills_the_screen_and_no_more(width: int, height: int, users_each: int) -> None:
    """Every line is as wide as the screen at most, and there are as many as it has."""
    lines = draw(board(users_each=users_each), width=width, height=height)
    assert height == len(lines)
    assert max(map(len, lines)) <= width
    assert not any("(" in line and " x " in line for line in lines), "an empty part is drawn as a frame"


def test_at_80x24_everything_is_there() -> None:
    """The farm as the balancer sees it, who is where, what goes on, and the sums."""
    lines = draw(board())
    text = "\n".join(lines)
    assert lines[0].startswith(" rdpbalancer  9 users → 127.0.0.1:3389 → 3 servers")
    assert lines[0].endswith("1:23  Ctrl-C ends")
    assert "router: process 4711   2 relays: 5 + 3 sessions" in text
    rows = [line.split()[1:6] for line in lines if line.startswith("│ ts")]
    assert [
        ["ts1", "up", "online", "100", "3"],
        ["ts2", "up", "drain", "100", "5"],
        ["ts3", "down", "online", "100", "0"],
    ] == rows
    assert "desktops on ts1: 3" in text
    assert 3 == sum("● u1" in line and "● u2" in line and "● u3" in line for line in lines)
    for said in ("ts2 is drained", "3 came back", "$ rdpbalancer drain ts2", "● here  ○ away"):
        assert said in text
    assert " 9 visits  0 returns: 0 own desktop, 0 server lost, 0 WRONG  0 cut off" == lines[-1].rstrip()


def test_a_user_on_the_wrong_desktop_and_a_broken_session_are_shown() -> None:
    """They are what it must never hide."""
    shown = board()
    landing = Landing("ts2", "ts2-9", returned=False, visit=1, redirects=0)
    shown.tally.arrived(Visit("u101", landing), source="127.64.0.9", now=1.0)
    shown.tally.broke("u102", "reset", Cause.NONE)
    lines = draw(shown)
    assert "u101 2 NO" in narrow(lines)
    assert "1 WRONG  1 cut off" in lines[-1]
    assert "1 returns: 0 to the own desktop, 0 after it was lost with its server, 1 wrong" in standing(shown)


def test_a_desktop_that_died_is_marked() -> None:
    """As lost while its user has no other, and then as new."""
    shown = board()
    shown.tally.left("u301", now=1.0)
    shown.tally.lose("ts3-1")
    assert "○ u301 1 lost" in narrow(draw(shown))
    landing = Landing("ts1", "ts1-9", returned=False, visit=1, redirects=0)
    shown.tally.arrived(Visit("u301", landing), source="127.64.0.9", now=2.0)
    assert "● u301 2 new" in narrow(draw(shown))


def test_users_who_do_not_fit_are_counted() -> None:
    """Nobody disappears without a word."""
    assert 3 == "\n".join(draw(board(users_each=20))).count("+13 more")


def test_more_room_shows_more() -> None:
    """Desktops and addresses where columns are wide, what happened lately where there are lines."""
    shown = board()
    shown.lately.extend(f"event {number}" for number in range(50))
    assert "ts1-1" not in "\n".join(draw(shown))
    wide = "\n".join(draw(shown, width=180, height=40))
    for said in ("ts1-1", "127.64.0.9", "event 49", "event 38", "--socket /tmp/x/run/control.sock"):
        assert said in wide
    assert "event 37" not in wide


def test_a_router_that_does_not_answer_is_told() -> None:
    """While the supervisor starts a new one the picture does not show old numbers as if they were new."""
    shown = board()
    shown.asked_at = 82.0
    assert "no router at present" in "\n".join(draw(shown, now=83.0))
    assert "no router at present" not in "\n".join(draw(shown, now=82.3))


def test_a_terminal_that_has_only_ascii_gets_ascii() -> None:
    """No sign is lost, or a question mark."""
    text = "\n".join(draw(board(), encoding="ascii"))
    assert "9 users -> 127.0.0.1:3389 -> 3 servers" in text
    assert "* u101" in text
    assert "?" not in text.replace("the same again?", "")


@pytest.mark.parametrize("words", WORDS.values(), ids=WORDS.keys())
def test_words_fit_into_their_lines(words: str) -> None:
    """On 80 columns, behind the frame and its padding."""
    lines = Text(words.format(sessions=12)).wrap(Console(width=80), 76)
    assert len(lines) <= WORDS_ROWS


@pytest.mark.parametrize(
    ("width", "height", "terminal", "expected"),
    [
        (80, 24, True, True),
        (MIN_WIDTH - 1, 24, True, False),
        (80, MIN_HEIGHT - 1, True, False),
        (80, 24, False, False),
    ],
)
def test_what_it_fits_on(width: int, height: int, *, terminal: bool, expected: bool) -> None:
    """A terminal, and large enough."""
    console = Console(
        file=io.StringIO(), width=width, height=height, force_terminal=terminal, _environ={"TERM": "xterm"}
    )
    assert expected is fits(console)
