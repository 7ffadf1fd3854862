"""`status` and `show`: JSON for programs, columns for pipes, tables for people."""

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from rdpbalancer.cli.columns import why
from tests.support.terminal import PATIENCE_S
from tests.unit.cli import rows
from tests.unit.cli.fake import FakeService, Refusal, command, on_a_terminal, run

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
    assert ["SERVER", "ADDRESS", "HEALTH", "STATE", "SESSIONS", "SINCE", "CHECK", "REASON"] == heading.split()
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


# ---- one server -----------------------------------------------------------------------------------


def test_all_of_one_server(tmp_path: Path) -> None:
    """A line a fact: what is observed, what is wanted and by whom, what it carries."""
    said = rows.operator(
        state="drain", actor="cli:anna", reason="patch night", since=rows.LONG_AGO, weight=50
    )
    server = rows.server(
        state="drain", weight=50, effective_weight=12.5, max_connections=40, sessions=7, backup=True, queue=1,
        reason="operator: drain: patch night", operator=said, sessions_total=900, bytes_up=2048,
        bytes_down=5 * 1024**2, resolved=["192.0.2.10"], token_addresses=["10.0.0.1:3389"],
        agent=rows.agent(state="drain", reason="a\x1b[2Jb", max_connections=40),
    )  # fmt: skip
    assert [
        ["server", "ts/ts1"],
        ["address", "ts1.example.net:3389 (192.0.2.10)"],
        ["token addresses", "10.0.0.1:3389"],
        ["health", f"up, last change {rows.AGO} ago"],
        ["last check", "confirmed (1.24 ms, 2s ago)"],
        ["failed checks", "0"],
        ["state", "drain"],
        ["operator", f"drain, weight 50 by cli:anna, {rows.AGO} ago: patch night"],
        ["agent", "75% drain, at most 40 sessions, heard 0s ago: a\\x1b[2Jb"],
        ["reason", "operator: drain: patch night"],
        ["weight", "50, now 12.5"],
        ["role", "backup"],
        ["sessions", "7 of at most 40"],
        ["waiting", "1"],
        ["since start", "900 sessions, 2.0 KiB up, 5.0 MiB down"],
    ] == shown(tmp_path, "show", "server", "ts1", servers=[[server, rows.server("ts2")]])


def test_a_server_of_that_name_in_two_services(tmp_path: Path) -> None:
    """Both, as every command takes the name; `SERVICE/SERVER` is one."""
    both = [rows.server(), rows.server(service="gw")]
    text = shown(tmp_path, "show", "server", "ts1", servers=[both])
    assert ["ts/ts1", "gw/ts1"] == [line[1] for line in text if line[0] == "server"]
    (tmp_path / "s").unlink()
    text = shown(tmp_path, "show", "server", "gw/ts1", servers=[both])
    assert ["gw/ts1"] == [line[1] for line in text if line[0] == "server"]


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    """A typing mistake is no empty page."""
    with FakeService(tmp_path / "s", ANSWERS) as service:
        done = command("show", "server", "ts9", service=service)
    assert (1, "") == (done.status, done.out)
    assert "there is no server ts9" in done.err


# ---- order and filters ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "verb", "params"),
    [
        (["sessions", "--source", "10.0.0.0/8"], "sessions", {"source": "10.0.0.0/8"}),
        (
            ["persistence", "--server", "ts1", "--key", "ali", "--method", "rdp-cookie"],
            "persistence",
            {"server": "ts1", "key": "ali", "method": "rdp-cookie"},
        ),
        (["queue", "--service", "ts"], "queue", {"service": "ts"}),
        (
            ["events", "--service", "ts", "--server", "ts2", "--level", "warning"],
            "events",
            {"service": "ts", "server": "ts2", "level": "warning"},
        ),
    ],
)
def test_filters_are_the_services(tmp_path: Path, args: list[str], verb: str, params: dict[str, Any]) -> None:
    """It knows which names there are, and refuses others."""
    with FakeService(tmp_path / "s", {verb: [[]]}) as service:
        assert 0 == command("show", *args, service=service).status
    assert [(verb, params)] == service.asked


@pytest.mark.parametrize(
    ("by", "expected"),
    [("name", "abcd"), ("worst", "cbda"), ("sessions", "dabc"), ("since", "bacd")],
)
def test_servers_in_an_order(tmp_path: Path, by: str, expected: str) -> None:
    """By name, by what needs somebody, by load, by what changed last."""
    servers = [
        rows.server("d", sessions=9, state="drain", last_change=1),
        rows.server("a", sessions=5, last_change=3),
        rows.server("b", health="checking", last_change=4),
        rows.server("c", health="down", last_change=2),
    ]
    lines = shown(tmp_path, "show", "servers", "--sort", by, servers=[servers])
    assert list(expected) == [line[1] for line in lines[1:]]


@pytest.mark.parametrize(
    ("by", "expected"),
    [("age", "cab"), ("user", "abc"), ("client", "bca"), ("server", "bac"), ("bytes", "bac")],
)
def test_sessions_in_an_order(tmp_path: Path, by: str, expected: str) -> None:
    """The longest, the biggest, or by a name."""
    sessions = [
        rows.session(id="a", user="Al", client="3", server="ts2", started=2, bytes_down=7),
        rows.session(id="b", user="bo", client="1", server="ts1", started=3, bytes_down=9),
        rows.session(id="c", user="CY", client="2", server="ts3", started=1, bytes_down=5),
    ]
    lines = shown(tmp_path, "show", "sessions", "--sort", by, sessions=[sessions])
    assert list(expected) == [line[0] for line in lines[1:]]


@pytest.mark.parametrize(("by", "expected"), [("key", "abc"), ("server", "bca"), ("expires", "cba")])
def test_bindings_in_an_order(tmp_path: Path, by: str, expected: str) -> None:
    """What is in use expires last."""
    bindings = [
        rows.binding(key="c", server="ts2", expires_in=1.0),
        rows.binding(key="a", server="ts3", expires_in=None),
        rows.binding(key="b", server="ts1", expires_in=5.0),
    ]
    lines = shown(tmp_path, "show", "persistence", "--sort", by, persistence=[bindings])
    assert list(expected) == [line[2] for line in lines[1:]]


def test_the_queue_in_a_pipe(tmp_path: Path) -> None:
    """Who waits for which server, and how long."""
    waiting = {"service": "ts", "server": None, "client": "192.0.2.7:5", "user": "al", "since": rows.LONG_AGO}
    _, first, second = shown(tmp_path, "show", "queue", queue=[[waiting, {**waiting, "server": "ts1"}]])
    assert ["ts", "any server", "192.0.2.7:5", "al", rows.AGO] == first
    assert "ts1" == second[1]


def test_long_lists_are_asked_for_in_pages(tmp_path: Path) -> None:
    """And are one list, as JSON too."""
    pages = [
        {"rows": [rows.session(id="a")], "next": "x", "total": 2},
        {"rows": [rows.session(id="b")], "next": None, "total": 2},
    ]
    with FakeService(tmp_path / "s", {"sessions": pages}) as service:
        done = command("show", "sessions", "--json", service=service)
    assert ["a", "b"] == [row["id"] for row in done.json]
    assert [{}, {"after": "x"}] == service.params("sessions")


# ---- events that go on ----------------------------------------------------------------------------


@pytest.mark.parametrize("how", [[], ["--json"]])
def test_events_are_followed(tmp_path: Path, how: list[str]) -> None:
    """What was, then what comes, each line at once, from the last one's number on; Ctrl-C is no failure."""
    answers: list[Any] = [
        [{"id": number, "time": 1.0 * number, "event": f"event-{number}", "level": "info"}]
        for number in (7, 8)
    ]
    with FakeService(tmp_path / "s", {"events": [*answers, []]}) as service:
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "rdpbalancer",
                "--socket",
                str(service.path),
                "show",
                "events",
                "-f",
                *how,
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(2 if how else 3)]
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=PATIENCE_S)
    assert (0, "") == (process.returncode, err)
    assert [True, True] == [f"event-{7 + number}" in line for number, line in enumerate(lines[-2:])]
    assert [{}, {"since": 7}] == service.params("events")[:2]


def test_events_since(tmp_path: Path) -> None:
    """A duration is a number of the service: the milliseconds of Unix time."""
    with FakeService(tmp_path / "s", {"events": [[]]}) as service:
        assert 0 == command("show", "events", "--since", "1h", service=service).status
    (params,) = service.params("events")
    assert abs(params["since"] / 1000 - (time.time() - 3600)) < 60


@pytest.mark.parametrize(("least", "said"), [(1, "1 session"), (20, "20 sessions")])
def test_a_server_that_was_full_says_when_it_takes_new_users_again(least: int, said: str) -> None:
    """It is up and online, and nobody would know why its users go elsewhere."""
    row = {
        "health": "up",
        "state": "online",
        "reason": "confirmed",
        "min_connections": least,
        "emptying": True,
    }
    assert f"was full, new users again at {said}" == why(row)
    assert "" == why({**row, "emptying": False})


@pytest.mark.parametrize("what", ["sessions", "persistence", "queue"])
def test_a_list_that_is_refused_is_no_empty_list(tmp_path: Path, what: str) -> None:
    """Whoever counts the lines of what was printed shall not find a heading, which says: there are none."""
    refusal = Refusal("unknown-service", "there is no service TYPO; there are: ts")
    done, _ = run(tmp_path, "show", what, "--service", "TYPO", **{what: [refusal]})
    assert (1, "") == (done.status, done.out)
    assert "there is no service TYPO" in done.err


@pytest.mark.parametrize("rows_there", [1, 5000])
def test_an_output_that_cannot_be_written(tmp_path: Path, rows_there: int) -> None:
    """A full disk is told in a sentence, however little there was to write."""
    answer = {"rows": [rows.session()] * rows_there, "next": None, "total": rows_there}
    with FakeService(tmp_path / "s", {"sessions": [answer]}) as service, Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "rdpbalancer", "--socket", str(service.path), "show", "sessions"],
            check=False, stdout=full, stderr=subprocess.PIPE, text=True, timeout=PATIENCE_S,
        )  # fmt: skip
    assert (1, "rdpbalancer: the output cannot be written: No space left on device\n") == (
        done.returncode,
        done.stderr,
    )


def test_a_word_that_is_no_text(tmp_path: Path) -> None:
    """A terminal in Latin-1 sends bytes that are none in UTF-8; nothing is asked for, and it is told why."""
    done, service = run(
        tmp_path, "show", "persistence", "--key", b"m\xfcller".decode(errors="surrogateescape")
    )
    assert (1, "", []) == (done.status, done.out, service.asked)
    assert "is no text in UTF-8" in done.err
