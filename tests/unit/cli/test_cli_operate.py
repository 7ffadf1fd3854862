"""The operator's commands: what they ask for, what they say, how they end."""

from pathlib import Path
from typing import Any

import pytest

from tests.unit.cli import rows
from tests.unit.cli.fake import Done, FakeService, Refusal, command


def run(tmp_path: Path, *args: str, **answers: list[Any]) -> tuple[Done, FakeService]:
    """Run a command against a service that answers so (`set_state` stands for `set-state`)."""
    scripted = {verb.replace("_", "-"): given for verb, given in answers.items()}
    with FakeService(tmp_path / "s", scripted) as service:
        return command(*args, service=service), service


# ---- drain, halt, online ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "params"),
    [
        (["drain", "ts1"], {"state": "drain", "strict": False, "service": None, "kick": False}),
        (["drain", "ts1", "--strict"], {"state": "drain", "strict": True, "service": None, "kick": False}),
        (["drain", "ts1", "--kick"], {"state": "drain", "strict": False, "service": None, "kick": True}),
        (["halt", "ts1", "--service", "ts"], {"state": "halt", "service": "ts", "kick": False}),
        (["online", "ts1"], {"state": "online", "service": None, "kick": False}),
    ],
)
def test_states_are_asked_for(tmp_path: Path, args: list[str], params: dict[str, Any]) -> None:
    """And what the service answers is said in a line."""
    done, service = run(tmp_path, *args, set_state=[rows.told("ts/ts1", "gw/ts1", sessions=2)])
    assert (0, f"ts/ts1, gw/ts1: {args[0]} (2 sessions)\n", "") == (done.status, done.out, done.err)
    assert [("set-state", {"server": "ts1", **params})] == service.asked


def test_sessions_that_were_ended_are_told(tmp_path: Path) -> None:
    """Kicked users will call; the operator should know how many."""
    done, _ = run(tmp_path, "halt", "ts1", "--kick", set_state=[rows.told(sessions=1, kicked=1)])
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


def test_a_wait_that_runs_out(tmp_path: Path) -> None:
    """Exit status 75; the server drains on."""
    done, service = run(
        tmp_path, "drain", "ts1", "--deadline", "10ms",
        set_state=[rows.told(sessions=2)], servers=[[rows.server(sessions=2)]],
    )  # fmt: skip
    assert 75 == done.status
    assert "ts/ts1: drain (2 sessions)\n" == done.out
    assert "rdpbalancer: sessions are still there; the wait ran out\n" == done.err
    assert [False] == [params["kick"] for params in service.params("set-state")]


def test_at_the_deadline_sessions_are_ended(tmp_path: Path) -> None:
    """`--deadline --kick`: users get their time, then the server is emptied."""
    done, service = run(
        tmp_path, "drain", "ts1", "--strict", "--kick", "--deadline", "10ms",
        set_state=[rows.told(sessions=2), rows.told(sessions=2, kicked=2)],
        servers=[[rows.server(sessions=2)], [rows.server(sessions=2)], [rows.server(sessions=0)]],
    )  # fmt: skip
    assert (0, "ts/ts1: drain (0 sessions, 2 ended)\n") == (done.status, done.out)
    assert [(False, True), (True, True)] == [
        (params["kick"], params["strict"]) for params in service.params("set-state")
    ]


def test_before_the_deadline_nobody_is_ended(tmp_path: Path) -> None:
    """The server was empty in time."""
    done, service = run(
        tmp_path, "halt", "ts1", "--kick", "--deadline", "20s",
        set_state=[rows.told(sessions=1)], servers=[[rows.server(sessions=1)], [rows.server()]],
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


def test_a_service_that_goes_away_while_one_waits(tmp_path: Path) -> None:
    """That is not an empty server."""
    done, _ = run(tmp_path, "drain", "ts1", "--wait", set_state=[rows.told(sessions=2)], servers=[None])
    assert 69 == done.status
    assert "the service closed the connection" in done.err


@pytest.mark.parametrize(
    "args",
    [
        ["drain"],
        ["drain", "ts1", "--deadline", "soon"],
        ["drain", "ts1", "--deadline", "-5s"],
        ["online", "ts1", "--kick"],
        ["halt", "ts1", "--strict"],
        ["weight", "ts1"],
        ["weight", "ts1", "50", "--reset"],
        ["weight", "ts1", "257"],
        ["weight", "ts1", "-1"],
        ["persist", "move", "alice"],
        ["persist", "move", "alice", "ts1", "--method", "routing-token"],
        ["show"],
        ["no-such-command"],
    ],
)
def test_wrong_usage(tmp_path: Path, args: list[str]) -> None:
    """Exit status 2, how to use it on standard error, and the service is not asked."""
    done, service = run(tmp_path, *args)
    assert (2, []) == (done.status, service.asked)
    assert "Usage: rdpbalancer" in done.err


# ---- the rest --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "verb", "answer", "params", "said"),
    [
        (
            ["weight", "ts1", "50"],
            "set-weight",
            {"servers": ["ts/ts1"]},
            {"server": "ts1", "weight": 50, "service": None},
            "ts/ts1: weight 50\n",
        ),
        (
            ["weight", "ts1", "--reset", "--service", "ts"],
            "set-weight",
            {"servers": ["ts/ts1"]},
            {"server": "ts1", "weight": None, "service": "ts"},
            "ts/ts1: weight as configured\n",
        ),
        (
            ["kick", "5ca1ab1e-1"],
            "kick",
            {"kicked": 1},
            {"session": "5ca1ab1e-1", "user": None, "server": None, "source": None},
            "1 session ended\n",
        ),
        (
            ["kick", "--user", "alice", "--server", "ts1", "--source", "192.0.2.7"],
            "kick",
            {"kicked": 3},
            {"session": None, "user": "alice", "server": "ts1", "source": "192.0.2.7"},
            "3 sessions ended\n",
        ),
        (
            ["persist", "move", "alice", "ts2", "--method", "rdp-cookie"],
            "persist-move",
            {"moved": 1, "server": "ts2"},
            {"key": "alice", "server": "ts2", "service": None, "method": "rdp-cookie"},
            "alice goes to ts2 from its next connection on\n",
        ),
        (
            ["persist", "delete", "192.0.2.7", "--service", "ts"],
            "persist-delete",
            {"deleted": 2},
            {"key": "192.0.2.7", "service": "ts", "method": None},
            "2 bindings of 192.0.2.7 deleted\n",
        ),
        (
            ["reload"],
            "reload",
            {"servers_added": ["ts/ts3", "ts/ts4"], "servers_removed": []},
            {},
            "reloaded; servers added: ts/ts3, ts/ts4\n",
        ),
        (["reload"], "reload", {"servers_added": []}, {}, "reloaded; nothing in the farm differs\n"),
    ],
)
def test_what_is_asked_for_and_said(
    *, tmp_path: Path, args: list[str], verb: str, answer: dict[str, Any], params: dict[str, Any], said: str
) -> None:
    """Each command is one request, and one line."""
    with FakeService(tmp_path / "s", {verb: [answer]}) as service:
        done = command(*args, service=service)
        quiet = command("--quiet", *args, service=service)
    assert (0, said, "") == (done.status, done.out, done.err)
    assert (0, "", "") == (quiet.status, quiet.out, quiet.err)
    assert [(verb, params)] * 2 == service.asked


@pytest.mark.parametrize(
    ("args", "verb"),
    [(["weight", "ts1", "50"], "set-weight"), (["kick", "x"], "kick"), (["reload"], "reload")],
)
def test_answers_as_json(tmp_path: Path, args: list[str], verb: str) -> None:
    """The service's own words."""
    answer = {"servers": ["ts/ts1"], "kicked": 1}
    with FakeService(tmp_path / "s", {verb: [answer]}) as service:
        assert answer == command(*args, "--json", service=service).json


def test_nobody_to_kick_is_a_failure(tmp_path: Path) -> None:
    """A script that wanted somebody gone should know."""
    done, _ = run(tmp_path, "kick", "--user", "nobody", kick=[{"kicked": 0}])
    assert (1, "0 sessions ended\n") == (done.status, done.out)


def test_a_reload_can_wait_for_the_new_servers(tmp_path: Path) -> None:
    """Until none is being checked for the first time."""
    done, service = run(
        tmp_path, "reload", "--wait",
        reload=[{"servers_added": ["ts/ts3"]}],
        servers=[[rows.server(health="checking")], [rows.server(health="checking")], [rows.server()]],
    )  # fmt: skip
    assert (0, 3) == (done.status, service.times("servers"))


# ---- upgrade ---------------------------------------------------------------------------------------


def test_an_upgrade_is_begun(tmp_path: Path) -> None:
    """Without --wait it says where to look."""
    done, service = run(tmp_path, "upgrade", upgrade=[{"version": "1.2.3", "generation": 1}])
    assert (0, [("upgrade", {})]) == (done.status, service.asked)
    assert "upgrade begun; `rdpbalancer status` shows the version that runs\n" == done.out


def test_an_upgrade_is_waited_for(tmp_path: Path) -> None:
    """Until the next generation's router runs and no relay of the old one is left."""
    done, _ = run(
        tmp_path, "upgrade", "--wait",
        upgrade=[{"version": "1.2.3", "generation": 1}],
        status=[
            rows.status(),
            rows.status(generation=2, status="starting"),
            rows.status(generation=2, relays_retiring=[4711]),
            rows.status(generation=2, version="1.3.0"),
        ],
    )  # fmt: skip
    assert (0, "version 1.3.0 runs; 3 sessions have moved\n") == (done.status, done.out)


# ---- what the service refuses ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("refusal", "status"),
    [
        (Refusal("unknown-server", "there is no server ts9; there are: ts/ts1"), 1),
        (Refusal("internal", "set-state failed: KeyError('x'); the log says more"), 1),
        (Refusal("configuration", "/etc/x.yaml:3:5: virtual_services[0].mode: unknown"), 78),
    ],
)
def test_a_refusal_is_said_in_the_services_words(tmp_path: Path, refusal: Refusal, status: int) -> None:
    """And tells scripts a mistake in the configuration from any other failure."""
    done, _ = run(tmp_path, "drain", "ts1", set_state=[refusal])
    assert (status, "") == (done.status, done.out)
    assert f"rdpbalancer: {refusal.error['message']}\n" == done.err


def test_no_service(tmp_path: Path) -> None:
    """Exit status 69, and what to do about it."""
    done = command("status", service=tmp_path / "nothing")
    assert (69, "") == (done.status, done.out)
    assert f"rdpbalancer: no rdpbalancer answers on {tmp_path}/nothing: is the service running?" in done.err


def test_the_socket_comes_from_the_environment_too(tmp_path: Path) -> None:
    """`--socket` goes before `RDPBALANCER_SOCKET`."""
    with FakeService(tmp_path / "s", {"services": [[]]}) as service:
        assert 0 == command("show", "services", RDPBALANCER_SOCKET=str(service.path)).status
        wrong = str(tmp_path / "nothing")
        assert 0 == command("show", "services", service=service, RDPBALANCER_SOCKET=wrong).status
        assert 69 == command("show", "services", RDPBALANCER_SOCKET=wrong).status
