"""`status` on a terminal: what is wrong comes first."""

from typing import Any

import pytest

from rdpbalancer.cli.status import badness, screen, summary
from rdpbalancer.cli.table import Line
from tests.unit.cli import rows


def text(lines: list[Line]) -> list[str]:
    return ["".join(piece.text for piece in line).rstrip() for line in lines]


def styles(lines: list[Line]) -> dict[str, str]:
    return {piece.text: piece.style for line in lines for piece in line if piece.style}


def test_a_small_farm() -> None:
    """Every server by name."""
    assert [
        f"rdpbalancer 1.2.3 is running (process 4700): 3 sessions, 2 relays, router up {rows.AGO}",
        "",
        "ts  rdp on 0.0.0.0:3389, [::]:3389",
        "  1 of 2 servers usable, 3 sessions, 1 waiting",
        "  SERVER  ADDRESS               HEALTH  STATE   SESSIONS   SINCE  CHECK  REASON",
        "  ts2     ts2.example.net:3389  down    online         0  2d 3h   1 ms  no answer within 2 s",
        "  ts1     ts1.example.net:3389  up      online         0  2d 3h   1 ms",
    ] == [
        line.replace("SESSIONS  SINCE", "SESSIONS   SINCE")
        for line in text(list(screen(rows.status(), width=100)))
    ]


def test_warnings_are_at_the_top() -> None:
    """In sentences, broken between words, before anything else."""
    warning = {
        "code": "reload_failed",
        "text": "the last reload failed: /etc/x.yaml:3:5: unknown key; mend the file and reload again",
        "since": rows.LONG_AGO,
    }
    lines = list(screen(rows.status(warnings=[warning]), width=80))
    assert [
        "  ! the last reload failed: /etc/x.yaml:3:5: unknown key; mend the file and",
        f"  reload again (for {rows.AGO})",
    ] == text(lines)[2:4]
    assert "yellow" == lines[2][-1].style


def test_a_strangers_word_in_a_warning_steers_nothing() -> None:
    """An agent's reason may stand there."""
    (line,) = text(
        list(screen(rows.status(warnings=[{"code": "x", "text": "a\x1b[2J", "since": None}]), width=200))
    )[1:2]
    assert "  ! a\\x1b[2J" == line


@pytest.mark.parametrize(
    ("usable", "total", "style"), [(0, 2, "red"), (1, 2, "yellow"), (2, 2, ""), (0, 0, "")]
)
def test_a_service_without_usable_servers_is_red(usable: int, total: int, style: str) -> None:
    """It is an outage."""
    service = rows.service(servers_usable=usable, servers_total=total)
    noun = "server" if total == 1 else "servers"
    found = styles(list(screen(rows.status(services=[service], servers=[]), width=80)))
    assert style == found.get(f"{usable} of {total} {noun} usable", "")


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"health": "down"}, 0),
        ({"health": "checking"}, 1),
        ({"queue": 1}, 2),
        ({"max_connections": 5, "sessions": 5}, 2),
        ({"state": "drain"}, 3),
        ({"health": "down", "state": "halt"}, 3),
        ({"effective_weight": 0.0}, 3),
        ({"agent": rows.agent(failures=3)}, 4),
        ({"agent": rows.agent(heard_ago=None)}, 4),
        ({"agent": rows.agent()}, 5),
        ({}, 5),
    ],
)
def test_the_worst_first(said: dict[str, Any], expected: int) -> None:
    """Down and wanted before down and halted: the one is news, the other is maintenance."""
    assert expected == badness(rows.server(**said))


def test_many_that_are_well_are_counted() -> None:
    """With the least and the most sessions; backups apart."""
    many = [rows.server(str(number), sessions=14 + number % 9) for number in range(197)]
    assert "197 servers up, 14 to 22 sessions each" == summary(many)
    backups = [rows.server("sorry", backup=True), rows.server("sorry2", backup=True)]
    assert "197 servers up, 14 to 22 sessions each; 2 backup servers up, 0 sessions each" == summary(
        many + backups
    )
    assert "1 backup server up, 0 sessions each" == summary(backups[:1])


def test_many_that_are_not_well_are_counted_too() -> None:
    """A screen is a screen; the rest is where `show servers` shows them."""
    farm = [rows.server(f"ts{number}", health="down", reason="refused") for number in range(50)]
    lines = text(list(screen(rows.status(servers=farm), width=100)))
    assert "  and 38 more like these: rdpbalancer show servers" == lines[-1]
    assert len(lines) < 24


def test_no_services() -> None:
    """A configuration may have none yet."""
    assert "no virtual services" == text(list(screen(rows.status(services=[], servers=[]), width=80)))[-1]


def test_many_addresses_are_whole() -> None:
    """A service's addresses are on as many lines as they need."""
    listen = [f"[2001:db8::{number}]:3389" for number in range(8)]
    lines = text(list(screen(rows.status(services=[rows.service(listen=listen)], servers=[]), width=60)))
    assert all(len(line) <= 60 for line in lines[3:])
    assert listen == [word.rstrip(",") for line in lines for word in line.split() if word.startswith("[")]
