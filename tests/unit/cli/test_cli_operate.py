"""`reload` and `upgrade`, and how every command ends that the service refuses or does not answer."""

from pathlib import Path
from typing import Any

import pytest

from tests.unit.cli import rows
from tests.unit.cli.fake import FakeService, Refusal, command, run


@pytest.mark.parametrize(
    ("args", "verb", "answer", "params", "said"),
    [
        (
            ["reload"],
            "reload",
            {"servers_added": ["ts/ts3", "ts/ts4"], "servers_removed": []},
            {},
            "reloaded; 2 servers added: ts/ts3, ts/ts4\n",
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


def test_answers_as_json(tmp_path: Path) -> None:
    """The service's own words."""
    answer = {"servers_added": ["ts/ts1"]}
    done, _ = run(tmp_path, "reload", "--json", reload=[answer])
    assert answer == done.json


def test_a_dry_run_says_what_a_reload_would_change(tmp_path: Path) -> None:
    """Which is what was asked for: also with --quiet."""
    done, service = run(tmp_path, "--quiet", "reload", "--dry-run", reload=[{"servers_removed": ["ts/ts3"]}])
    assert (0, "dry run, nothing was changed; 1 server removed: ts/ts3\n") == (done.status, done.out)
    assert [("reload", {"dry_run": True})] == service.asked


@pytest.mark.parametrize("more", [["--wait"], ["--reason", "patch night"]])
def test_a_dry_run_waits_for_nothing_and_has_no_reason(tmp_path: Path, more: list[str]) -> None:
    """Refused before the service is asked."""
    done, service = run(tmp_path, "reload", "--dry-run", *more)
    assert (2, []) == (done.status, service.asked)
    assert "--dry-run changes nothing" in done.err


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
