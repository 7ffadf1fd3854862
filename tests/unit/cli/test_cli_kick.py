"""`kick` and `persist`: what they ask for, when they ask back, what they say."""

from pathlib import Path
from typing import Any

import pytest

from tests.unit.cli import rows
from tests.unit.cli.fake import FakeService, on_a_terminal, run


def total(count: int) -> dict[str, Any]:
    """Return a page of one session of `count`."""
    return {"rows": [rows.session()], "next": None, "total": count}


@pytest.mark.parametrize(
    ("args", "params"),
    [
        (["5ca1ab1e-1"], {"session": "5ca1ab1e-1"}),
        (
            ["--user", "alice", "--server", "ts1", "--source", "192.0.2.7"],
            {"user": "alice", "server": "ts1", "source": "192.0.2.7"},
        ),
        (["--service", "ts", "--source", "10.0.0.0/8"], {"service": "ts", "source": "10.0.0.0/8"}),
        (["--all", "--reason", "flood"], {"all": True, "reason": "flood"}),
        (["--all", "--yes"], {"all": True}),
    ],
)
def test_what_is_asked_for(tmp_path: Path, args: list[str], params: dict[str, Any]) -> None:
    """Only what was given; a script is not asked back."""
    done, service = run(tmp_path, "kick", *args, kick=[{"kicked": 3}])
    assert (0, "3 sessions ended\n", "") == (done.status, done.out, done.err)
    assert [("kick", params)] == service.asked


@pytest.mark.parametrize("args", [[], ["--all", "--user", "alice"], ["x", "--all"]])
def test_who_is_meant_has_to_be_said(tmp_path: Path, args: list[str]) -> None:
    """Wrong usage: exit status 2, and the service is not asked."""
    done, service = run(tmp_path, "kick", *args)
    assert (2, []) == (done.status, service.asked)
    assert "name a SESSION, --user, --server, --service or --source; or --all" in done.err


def test_nobody_to_kick_is_a_failure(tmp_path: Path) -> None:
    """A script that wanted somebody gone should know."""
    done, _ = run(tmp_path, "kick", "--user", "nobody", kick=[{"kicked": 0}])
    assert (1, "0 sessions ended\n") == (done.status, done.out)


@pytest.mark.parametrize(
    ("many", "typed", "status", "asked"),
    [(6, "y\n", 0, ["sessions", "kick"]), (6, "n\n", 1, ["sessions"]), (5, "", 0, ["sessions", "kick"])],
)
def test_many_are_asked_about_on_a_terminal(
    tmp_path: Path, many: int, typed: str, status: int, asked: list[str]
) -> None:
    """`kick --server ts1` on the wrong machine is a call from everybody."""
    answers = {"sessions": [total(many)], "kick": [{"kicked": many}]}
    with FakeService(tmp_path / "s", answers) as service:
        done = on_a_terminal("kick", "--server", "ts1", service=service, typed=typed)
    assert (status, asked) == (done.status, [verb for verb, _ in service.asked])
    assert ("End 6 sessions? [y/N]" in done.err) is (many == 6)
    assert [{"server": "ts1", "limit": 1}] == service.params("sessions")
    assert ("no session was ended" in done.err) is (status == 1)


@pytest.mark.parametrize("args", [["--all", "--yes"], ["5ca1ab1e-1"]])
def test_one_session_and_yes_are_not_asked_about(tmp_path: Path, args: list[str]) -> None:
    """An id is one session; `--yes` was asked for."""
    with FakeService(tmp_path / "s", {"kick": [{"kicked": 900}]}) as service:
        done = on_a_terminal("kick", *args, service=service, typed="")
    assert (0, ["kick"]) == (done.status, [verb for verb, _ in service.asked])


MOVED = {"moved": 1, "created": 0, "near": [], "server": "ts2"}
GOES = "goes to ts2 from its next connection on"


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (MOVED, f"alice {GOES}"),
        ({**MOVED, "moved": 0, "created": 1}, f"no binding of that name; one was made: alice {GOES}"),
        (
            {**MOVED, "moved": 0, "created": 1, "near": ["corp\\alice", "alic"]},
            f"no binding of that name; one was made: alice {GOES}; there are bindings of corp\\alice, alic",
        ),
    ],
)
def test_a_move_tells_whether_there_was_a_binding(tmp_path: Path, answer: dict[str, Any], said: str) -> None:
    """With mstsc the key has the domain: the keys that may have been meant are named."""
    done, service = run(
        tmp_path, "persist", "move", "alice", "ts2", "--method", "rdp-cookie", persist_move=[answer]
    )
    assert (0, f"{said}\n") == (done.status, done.out)
    assert [{"key": "alice", "server": "ts2", "method": "rdp-cookie"}] == service.params("persist-move")


def test_a_key_steers_no_terminal(tmp_path: Path) -> None:
    """It was copied from where a stranger wrote it."""
    done, _ = run(tmp_path, "persist", "move", "a\u202eb", "ts2", persist_move=[MOVED])
    assert f"a\\u202eb {GOES}\n" == done.out


def test_a_binding_is_deleted(tmp_path: Path) -> None:
    """How many there were is told."""
    done, service = run(
        tmp_path, "persist", "delete", "192.0.2.7", "--service", "ts", persist_delete=[{"deleted": 2}]
    )
    assert (0, "2 bindings of 192.0.2.7 deleted\n") == (done.status, done.out)
    assert [{"key": "192.0.2.7", "service": "ts"}] == service.params("persist-delete")


@pytest.mark.parametrize(
    ("args", "verb", "answer"),
    [
        (["kick", "x"], "kick", {"kicked": 1}),
        (["persist", "move", "alice", "ts2"], "persist_move", MOVED),
        (["persist", "delete", "alice"], "persist_delete", {"deleted": 1}),
    ],
)
def test_json_and_quiet(tmp_path: Path, args: list[str], verb: str, answer: dict[str, Any]) -> None:
    """The service's own words, or none."""
    done, service = run(tmp_path, *args, "--json", **{verb: [answer]})
    assert answer == done.json
    service.path.unlink()
    done, _ = run(tmp_path, "--quiet", *args, **{verb: [answer]})
    assert (0, "", "") == (done.status, done.out, done.err)


@pytest.mark.parametrize(
    "args",
    [
        ["persist", "move", "alice"],
        ["persist", "move", "alice", "ts1", "--method", "routing-token"],
        ["persist"],
    ],
)
def test_wrong_usage(tmp_path: Path, args: list[str]) -> None:
    """Exit status 2, and the service is not asked."""
    done, service = run(tmp_path, *args)
    assert (2, []) == (done.status, service.asked)
