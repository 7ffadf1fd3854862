"""`drain`, `halt`, `online`, `weight`: what they ask for, what they say, how a wait ends."""

from pathlib import Path
from typing import Any

import pytest

from tests.unit.cli import rows
from tests.unit.cli.fake import FakeService, Refusal, on_a_terminal, run


@pytest.mark.parametrize(
    ("args", "params"),
    [
        (["drain", "ts1"], {"state": "drain", "strict": False, "kick": False}),
        (["drain", "ts1", "--strict"], {"state": "drain", "strict": True, "kick": False}),
        (["drain", "ts1", "--kick"], {"state": "drain", "strict": False, "kick": True}),
        (["halt", "ts1", "--service", "ts"], {"state": "halt", "service": "ts", "kick": False}),
        (["online", "ts1"], {"state": "online", "kick": False}),
    ],
)
def test_states_are_asked_for(tmp_path: Path, args: list[str], params: dict[str, Any]) -> None:
    """And what the service answers is said in a line."""
    told = rows.told("ts/ts1", "gw/ts1", sessions=2, state=args[0])
    done, service = run(tmp_path, *args, set_state=[told])
    assert (0, f"ts/ts1, gw/ts1: {args[0]} (2 sessions)\n", "") == (done.status, done.out, done.err)
    assert [("set-state", {"servers": ["ts1"], **params})] == service.asked


def test_sessions_that_were_ended_are_told(tmp_path: Path) -> None:
    """Kicked users will call; the operator should know how many."""
    done, _ = run(
        tmp_path, "halt", "ts1", "--kick", set_state=[rows.told(sessions=1, kicked=1, state="halt")]
    )
    assert "ts/ts1: halt (1 session, 1 ended)\n" == done.out


def test_json_is_the_whole_answer(tmp_path: Path) -> None:
    """For scripts."""
    done, _ = run(tmp_path, "drain", "ts1", "--json", set_state=[rows.told(sessions=2)])
    assert rows.told(sessions=2) == done.json


def test_quiet_says_nothing(tmp_path: Path) -> None:
    """The exit status is enough."""
    done, _ = run(tmp_path, "-q", "drain", "ts1", set_state=[rows.told(sessions=2)])
    assert (0, "", "") == (done.status, done.out, done.err)


def test_waiting_for_a_server_to_be_empty(tmp_path: Path) -> None:
    """Only the server's own sessions count, and what is said is how it is at the end."""
    others = [rows.server("ts2", sessions=9), rows.server(service="gw", sessions=9)]
    left = [[rows.server(sessions=count), *others] for count in (2, 1, 0)]
    done, service = run(tmp_path, "drain", "ts1", "--wait", set_state=[rows.told(sessions=2)], servers=left)
    assert (0, "ts/ts1: drain (0 sessions)\n") == (done.status, done.out)
    assert 1 == service.times("set-state")
    assert service.times("servers") >= 3


@pytest.mark.parametrize(
    ("refusal", "status"),
    [
        (Refusal("unknown-server", "there is no server ts/ts1"), 0),
        (Refusal("internal", "sessions failed: KeyError('x'); the log says more"), 1),
    ],
)
def test_a_server_is_empty_only_where_the_service_says_so(
    tmp_path: Path, refusal: Refusal, status: int
) -> None:
    """Of one that a reload has removed the sessions are asked for; a failure is not "none": it is told."""
    done, _ = run(
        tmp_path, "drain", "ts1", "--wait",
        set_state=[rows.told(sessions=2)], servers=[[rows.server("ts2")]], sessions=[refusal],
    )  # fmt: skip
    assert status == done.status


def test_a_wait_outlives_the_router(tmp_path: Path) -> None:
    """An upgrade in the middle of the night takes the answer away once, and not the sessions' end with it."""
    answers = [[rows.server(sessions=2)], None, [rows.server(sessions=0)]]
    done, _ = run(tmp_path, "drain", "ts1", "--wait", set_state=[rows.told(sessions=2)], servers=answers)
    assert (0, "ts/ts1: drain (0 sessions)\n") == (done.status, done.out)


def test_a_wait_that_runs_out(tmp_path: Path) -> None:
    """Exit status 75; the server drains on."""
    done, service = run(
        tmp_path, "drain", "ts1", "--deadline", "10ms",
        set_state=[rows.told(sessions=2)], servers=[[rows.server(sessions=2)]],
        sessions=[[rows.session(), rows.session(user=None)]],
    )  # fmt: skip
    assert 75 == done.status
    assert "ts/ts1: drain (2 sessions)\n" == done.out
    left = "2 sessions left: EXAMPLE\\alice on ts/ts1, 192.0.2.7:50123 on ts/ts1"
    assert f"rdpbalancer: the wait ran out; {left}\n" == done.err
    assert [False] == [params["kick"] for params in service.params("set-state")]


def test_at_the_deadline_sessions_are_ended(tmp_path: Path) -> None:
    """`--deadline --kick`: users get their time, then the server is emptied."""
    done, service = run(
        tmp_path, "drain", "ts1", "--strict", "--kick", "--deadline", "10ms",
        set_state=[rows.told(sessions=2), rows.told(sessions=2, kicked=2)],
        servers=[[drained(sessions=2)], [drained(sessions=2)], [drained(sessions=2)], [drained(sessions=0)]],
    )  # fmt: skip
    assert (0, "ts/ts1: drain (0 sessions, 2 ended)\n") == (done.status, done.out)
    assert [(False, True), (True, True)] == [
        (params["kick"], params["strict"]) for params in service.params("set-state")
    ]


def drained(name: str = "ts1", **keys: Any) -> dict[str, Any]:
    """Return a server that an operator has drained."""
    return rows.server(name, operator=rows.operator(state="drain"), **keys)


def test_a_later_word_of_somebody_goes_before_the_deadline(tmp_path: Path) -> None:
    """Whoever has put the server back has users there; only the other one is emptied."""
    back = rows.server("ts1", sessions=5)
    done, service = run(
        tmp_path, "drain", "ts*", "--service", "ts", "--kick", "--deadline", "10ms",
        set_state=[rows.told("ts/ts1", "ts/ts2", sessions=7), rows.told("ts/ts2", kicked=2)],
        servers=[*([[back, drained("ts2", sessions=2)]] * 3), [back, drained("ts2", sessions=0)]],
        sessions=[[rows.session()] * 5],
    )  # fmt: skip
    assert (75, "ts/ts1, ts/ts2: drain (5 sessions, 2 ended)\n") == (done.status, done.out)
    assert "ts/ts1: not drain any more by a later word; nobody is ended there\n" in done.err
    first, second = service.params("set-state")
    assert (["ts*"], False) == (first["servers"], first["kick"])
    assert (["ts/ts2"], True) == (second["servers"], second["kick"])


def test_before_the_deadline_nobody_is_ended(tmp_path: Path) -> None:
    """The server was empty in time."""
    done, service = run(
        tmp_path, "halt", "ts1", "--kick", "--deadline", "20s",
        set_state=[rows.told(sessions=1, state="halt")],
        servers=[[rows.server(sessions=1)], [rows.server()]],
    )  # fmt: skip
    assert (0, "ts/ts1: halt (0 sessions)\n") == (done.status, done.out)
    assert [False] == [params["kick"] for params in service.params("set-state")]


def test_kick_and_wait_end_sessions_at_once(tmp_path: Path) -> None:
    """Without a deadline there is nothing to wait for first."""
    done, service = run(
        tmp_path, "drain", "ts1", "--kick", "--wait",
        set_state=[rows.told(sessions=1, kicked=1)], servers=[[rows.server(sessions=1)], [rows.server()]],
    )  # fmt: skip
    assert (0, "ts/ts1: drain (0 sessions, 1 ended)\n") == (done.status, done.out)
    assert [True] == [params["kick"] for params in service.params("set-state")]


def test_a_service_that_goes_away_while_one_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That is not an empty server; it is asked again for a while."""
    monkeypatch.setattr("rdpbalancer.cli.emptying._UNREACHABLE_S", 0.3)
    done, service = run(tmp_path, "drain", "ts1", "--wait", set_state=[rows.told(sessions=2)], servers=[None])
    assert 69 == done.status
    assert "the service closed the connection" in done.err
    assert service.times("servers") > 1


@pytest.mark.parametrize(
    "args",
    [
        ["drain"],
        ["drain", "ts1", "--deadline", "soon"],
        ["drain", "ts1", "--deadline", "-5s"],
        ["online", "ts1", "--kick"],
        ["halt", "ts1", "--strict"],
        ["weight", "ts1"],
        ["weight", "50"],
        ["weight", "ts1", "50", "--reset"],
        ["weight", "ts1", "101%"],
        ["weight", "ts1", "half"],
        ["weight", "ts1", "257"],
        ["weight", "ts1", "-1"],
    ],
)
def test_wrong_usage(tmp_path: Path, args: list[str]) -> None:
    """Exit status 2, how to use it on standard error, and the service is not asked."""
    done, service = run(tmp_path, *args)
    assert (2, []) == (done.status, service.asked)
    assert "Usage: rdpbalancer" in done.err


def test_several_servers_and_patterns(tmp_path: Path) -> None:
    """Names go to the service as they are: it knows which servers there are."""
    told = rows.told(*(f"ts/ts-{number:02}" for number in range(12)), sessions=9)
    done, service = run(tmp_path, "drain", "ts-*", "gw/gw1", "--reason", "patch night", set_state=[told])
    assert [
        {
            "servers": ["ts-*", "gw/gw1"],
            "state": "drain",
            "strict": False,
            "kick": False,
            "reason": "patch night",
        }
    ] == (service.params("set-state"))
    named = ", ".join(f"ts/ts-{number:02}" for number in range(8))
    assert f"{named} and 4 more: drain (9 sessions)\n" == done.out


def test_an_agent_that_wants_otherwise_is_told(tmp_path: Path) -> None:
    """`online` is done, and yet the server drains: whoever is not told waits for users in vain."""
    told = rows.told("a/ts1", "b/ts1", state="online")
    told["servers"][0] |= {"state": "drain", "agent": "drain"}
    done, _ = run(tmp_path, "online", "ts1", set_state=[told])
    assert [
        "a/ts1, b/ts1: online (0 sessions)",
        "a/ts1: stays in drain, as its feedback agent says; only the agent takes that back",
    ] == done.out.splitlines()


def test_a_server_that_is_down_is_told(tmp_path: Path) -> None:
    """It is online, and gets nobody."""
    told = rows.told(state="online")
    told["servers"][0]["health"] = "down"
    done, _ = run(tmp_path, "online", "ts1", set_state=[told])
    assert "ts/ts1: down, so nobody is sent there; `show servers` says why" == done.out.splitlines()[1]


def test_a_wait_tells_on_a_terminal_who_is_left(tmp_path: Path) -> None:
    """How many, then whose the last ones are; nothing of it stays on the screen."""
    answers: dict[str, list[Any]] = {
        "set-state": [rows.told(sessions=9)],
        "servers": [[rows.server(sessions=9)], [rows.server(sessions=1)], [rows.server()]],
        "sessions": [[rows.session(user="a\x1b[2Jb")]],
    }
    with FakeService(tmp_path / "s", answers) as service:
        done = on_a_terminal("drain", "ts1", "--wait", service=service, errors=True)
    assert 0 == done.status
    nine, one, end = done.out.split("\r\x1b[K")
    assert ("9 sessions left", "1 session left: a\\x1b[2Jb on ts/ts1") == (nine, one)
    assert "ts/ts1: drain (0 sessions)\n" == end


def test_a_server_that_a_reload_has_removed_may_still_have_sessions(tmp_path: Path) -> None:
    """It is in no list of servers; empty it is when it has no session."""
    page = {"rows": [rows.session()], "next": None, "total": 1}
    done, service = run(
        tmp_path, "drain", "ts1", "--wait",
        set_state=[rows.told(sessions=1)], servers=[[]], sessions=[page, page, {**page, "total": 0}],
    )  # fmt: skip
    assert (0, "ts/ts1: drain (0 sessions)\n") == (done.status, done.out)
    assert {"server": "ts/ts1", "limit": 1} == service.params("sessions")[0]


@pytest.mark.parametrize(
    ("args", "params", "said"),
    [
        (["ts1", "50"], {"servers": ["ts1"], "weight": 50}, "weight 50"),
        (["ts1", "ts2", "0"], {"servers": ["ts1", "ts2"], "weight": 0}, "weight 0"),
        (["ts1", "50%"], {"servers": ["ts1"], "percent": 50}, "weight 50% of the configured"),
        (
            ["ts1", "--reset", "--service", "ts"],
            {"servers": ["ts1"], "weight": None, "service": "ts"},
            "weight as configured",
        ),
        (
            ["ts1", "5", "--reason", "new disk"],
            {"servers": ["ts1"], "weight": 5, "reason": "new disk"},
            "weight 5",
        ),
    ],
)
def test_weights(tmp_path: Path, args: list[str], params: dict[str, Any], said: str) -> None:
    """A number, a percentage of the configured weight as HAProxy takes it, or back to the configured one."""
    done, service = run(tmp_path, "weight", *args, set_weight=[{"servers": ["ts/ts1"]}])
    assert (0, f"ts/ts1: {said}\n", "") == (done.status, done.out, done.err)
    assert [params] == service.params("set-weight")


def test_reset_takes_no_weight(tmp_path: Path) -> None:
    """It says which of the two to leave out."""
    done, service = run(tmp_path, "weight", "ts3", "--reset", "3")
    assert (2, []) == (done.status, service.asked)
    assert "--reset goes back to the configured weight and takes no 3" in done.err
