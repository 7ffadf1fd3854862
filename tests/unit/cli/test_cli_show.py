"""`status` and `show`: JSON for programs, columns for pipes, tables for people."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.unit.cli import rows
from tests.unit.cli.fake import FakeService, command, on_a_terminal

ANSWERS: dict[str, list[Any]] = {
    "status": [rows.status()],
    "services": [[rows.service()]],
    "servers": [[rows.server(), rows.server("ts2", health="down", reason="no answer within 2 s")]],
    "sessions": [[rows.session()]],
    "persistence": [[rows.binding(), rows.binding(key="bert", expires_in=None, sessions=1)]],
    "events": [
        [
            {
                "time": 1_700_000_000.0,
                "level": "error",
                "event": "server_down",
                "service": "ts",
                "server": "ts2",
                "detail": "no answer within 2 s",
            },
            {"time": 1_700_000_001.0, "level": "info", "event": "reloaded"},
        ]
    ],
}

SERVERS = [
    "SERVICE",
    "SERVER",
    "ADDRESS",
    "HEALTH",
    "STATE",
    "SESSIONS",
    "WEIGHT",
    "QUEUE",
    "AGENT",
    "SINCE",
    "REASON",
]


def columns(text: str) -> list[list[str]]:
    """Return the lines of a pipe's text, split at tabs."""
    return [line.split("\t") for line in text.splitlines()]


@pytest.mark.parametrize(
    ("args", "verb", "params"),
    [
        (["status"], "status", {}),
        (["show", "services"], "services", {}),
        (["show", "servers"], "servers", {}),
        (["show", "servers", "--service", "ts"], "servers", {"service": "ts"}),
        (["show", "sessions"], "sessions", {}),
        (
            ["show", "sessions", "--service", "ts", "--server", "ts1", "--user", "alice"],
            "sessions",
            {"service": "ts", "server": "ts1", "user": "alice"},
        ),
        (["show", "persistence", "--service", "ts"], "persistence", {"service": "ts"}),
        (["show", "events"], "events", {}),
    ],
)
def test_json_is_the_services_own_answer(
    tmp_path: Path, args: list[str], verb: str, params: dict[str, Any]
) -> None:
    """On one line in a pipe; nothing is added or left out."""
    with FakeService(tmp_path / "s", ANSWERS) as service:
        done = command(*args, "--json", service=service)
    assert (0, "") == (done.status, done.err)
    assert 1 == done.out.count("\n")
    assert ANSWERS[verb][0] == done.json
    assert [(verb, params)] == service.asked


def shown(tmp_path: Path, *args: str, **answers: list[Any]) -> list[list[str]]:
    """Return the columns that a command prints into a pipe."""
    with FakeService(tmp_path / "s", ANSWERS | answers) as service:
        done = command(*args, service=service)
    assert (0, "") == (done.status, done.err)
    return columns(done.out)


def test_servers_in_a_pipe(tmp_path: Path) -> None:
    """Tab-separated under a heading, the same columns in every line."""
    heading, first, second = shown(tmp_path, "show", "servers")
    assert SERVERS == heading
    assert [
        "ts", "ts1", "ts1.example.net:3389", "up", "online", "0", "100", "0", "-", rows.AGO, "confirmed",
    ] == first  # fmt: skip
    assert ["ts2", "down", "no answer within 2 s"] == [second[1], second[3], second[10]]


@pytest.mark.parametrize(
    ("said", "column", "expected"),
    [
        ({"effective_weight": 37.5}, 6, "37.5 of 100"),
        ({"state": "drain", "strict": True}, 4, "drain (strict)"),
        ({"agent": rows.agent()}, 8, "75%"),
        ({"agent": rows.agent(weight=120, percent=None)}, 8, "weight 120"),
        ({"agent": rows.agent(state="drain", health="down")}, 8, "75% drain down"),
        ({"agent": rows.agent(heard_ago=None)}, 8, "not heard"),
        ({"reason": ""}, 10, "-"),
    ],
)
def test_what_a_server_is_like(tmp_path: Path, said: dict[str, Any], column: int, expected: str) -> None:
    """Weight, agent and state in few words."""
    _, row = shown(tmp_path, "show", "servers", servers=[[rows.server(**said)]])
    assert expected == row[column]


def test_sessions_in_a_pipe(tmp_path: Path) -> None:
    """Who, from where, on which server and why, how long, how much."""
    _, row = shown(tmp_path, "show", "sessions")
    assert [
        "5ca1ab1e-1", "EXAMPLE\\alice", "192.0.2.7:50123", "ts", "ts1", "cookie",
        rows.AGO, "1000 B", "5.0 MiB", "4711",
    ] == row  # fmt: skip


def test_persistence_in_a_pipe(tmp_path: Path) -> None:
    """A binding in use has no time yet."""
    _, idle, used = shown(tmp_path, "show", "persistence")
    assert ["ts", "rdp-cookie", "example\\alice", "ts1", "0", "1h 00m"] == idle
    assert ["bert", "1", "in use"] == [used[2], used[4], used[5]]


def test_services_in_a_pipe(tmp_path: Path) -> None:
    """Where it listens, and how many servers can be used."""
    _, row = shown(tmp_path, "show", "services")
    assert [
        "ts", "0.0.0.0:3389, [::]:3389", "rdp", "weighted-least-connections", "3", "1", "1 of 2",
    ] == row  # fmt: skip


def test_events_in_a_pipe(tmp_path: Path) -> None:
    """In local time; what an event does not have is a dash."""
    _, first, second = shown(tmp_path, "show", "events")
    assert re.fullmatch(r"2023-11-1\d \d\d:\d\d:\d\d", first[0])
    assert ["error", "server_down", "ts", "ts2", "no answer within 2 s"] == first[1:]
    assert ["info", "reloaded", "-", "-", "nothing in the farm differs"] == second[1:]


def test_a_strangers_name_stays_in_its_column(tmp_path: Path) -> None:
    """A user's name can forge no line or column, and steers no terminal."""
    hostile = "a\tb\nc\x1b]0;owned\x07\x9b31m\u202egnp"
    _, row = shown(tmp_path, "show", "sessions", sessions=[[rows.session(user=hostile)]])
    assert "a\\tb\\nc\\x1b]0;owned\\x07\\x9b31m\\u202egnp" == row[1]
    assert 10 == len(row)


def test_status_in_a_pipe(tmp_path: Path) -> None:
    """One screen: the service in a line, its virtual services, its servers."""
    (line,), services, _, servers, *_ = shown(tmp_path, "status")
    assert f"rdpbalancer 1.2.3 is running (process 4700): 3 sessions, 2 relays, router up {rows.AGO}" == line
    assert ("SERVICE", "SERVICE") == (services[0], servers[0])


@pytest.mark.parametrize("args", [["--quiet", "status"], ["status", "--quiet"], ["-q", "status"]])
def test_a_quiet_status_only_has_an_exit_status(tmp_path: Path, args: list[str]) -> None:
    """For scripts that ask whether the service answers."""
    with FakeService(tmp_path / "s", ANSWERS) as service:
        done = command(*args, service=service)
    assert (0, "", "") == (done.status, done.out, done.err)


def test_quiet_does_not_hide_what_was_asked_for(tmp_path: Path) -> None:
    """`-q show servers` still shows servers."""
    with FakeService(tmp_path / "s", ANSWERS) as service:
        assert "ts1.example.net" in command("-q", "show", "servers", service=service).out


@pytest.mark.parametrize("what", ["services", "servers", "sessions", "persistence", "events"])
def test_nothing_is_a_heading_in_a_pipe(tmp_path: Path, what: str) -> None:
    """Programs that cut columns need no special case."""
    assert 1 == len(shown(tmp_path, "show", what, **{what: [[]]}))


# ---- on a terminal ---------------------------------------------------------------------------------


def test_servers_on_a_terminal(tmp_path: Path) -> None:
    """A table; what is wrong is red, what is well is green."""
    with FakeService(tmp_path / "s", ANSWERS) as service:
        done = on_a_terminal("show", "servers", service=service)
    assert 0 == done.status, done.err
    assert "\t" not in done.out
    assert re.search(r"\x1b\[1;31mdown", done.out)
    assert re.search(r"\x1b\[32mup", done.out)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", done.out)
    service_, heading, first, second = (text.rstrip() for text in plain.splitlines() if text.strip())
    assert "ts" == service_
    assert ["SERVER", "ADDRESS", "HEALTH", "STATE", "SESSIONS", "SINCE", "REASON"] == heading.split()
    assert ["ts1", "ts1.example.net:3389", "up", "online", "0"] == first.split()[:5]
    assert second.endswith("no answer within 2 s")


@pytest.mark.parametrize("environ", [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_no_color_means_none(tmp_path: Path, environ: tuple[str, str]) -> None:
    """`NO_COLOR` takes the colours away, and leaves the table; so does a terminal that has none."""
    with FakeService(tmp_path / "s", ANSWERS) as service:
        done = on_a_terminal("show", "servers", service=service, environ=dict([environ]))
    assert "\x1b" not in done.out
    assert "  SERVER  ADDRESS" in done.out


def test_a_strangers_name_does_not_steer_the_terminal(tmp_path: Path) -> None:
    """Neither in a table nor as markup of its own."""
    hostile = rows.session(user="\x1b]0;owned\x07[red]x[/red]")
    with FakeService(tmp_path / "s", {"sessions": [[hostile]]}) as service:
        done = on_a_terminal("show", "sessions", service=service, environ={"NO_COLOR": "1"})
    assert "\\x1b]0;owned\\x07[red]x[/red]" in done.out
    assert "\x1b]" not in done.out


def test_nothing_is_said_in_words_on_a_terminal(tmp_path: Path) -> None:
    """An empty table would look broken."""
    with FakeService(tmp_path / "s", {"sessions": [[]]}) as service:
        assert "no sessions\n" == on_a_terminal("show", "sessions", service=service).out


def test_json_on_a_terminal_is_indented(tmp_path: Path) -> None:
    """It is being read."""
    with FakeService(tmp_path / "s", ANSWERS) as service:
        done = on_a_terminal("show", "services", "--json", service=service)
    assert ANSWERS["services"][0] == done.json
    assert '\n    "name": "ts"' in done.out


def test_json_keeps_letters_as_they_are(tmp_path: Path) -> None:
    """Names of people are not all ASCII."""
    with FakeService(tmp_path / "s", {"sessions": [[rows.session(user="Zoë")]]}) as service:
        out = command("show", "sessions", "--json", service=service).out
    assert "Zoë" in out
    assert "Zoë" == json.loads(out)[0]["user"]
