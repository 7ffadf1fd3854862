"""What an event says, in a line."""

import time
from typing import Any

import pytest

from rdpbalancer.cli.changes import changes_text
from rdpbalancer.cli.events import detail_text, event_cells


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        ({"event": "server_down", "detail": "no answer within 2 s"}, "no answer within 2 s"),
        ({"event": "agent_changed", "state": "drain", "health": "up", "detail": ""}, "drain"),
        ({"event": "agent_changed", "state": "halt", "health": "down", "detail": "a"}, "halt, down, a"),
        ({"event": "router_ready", "sessions": 1, "pid": 7}, "1 session"),
        ({"event": "reloaded", "servers_added": ["ts/ts3"]}, "1 server added: ts/ts3"),
        (
            {"event": "operator", "detail": "drain", "actor": "cli:anna", "reason": "patch night"},
            "drain, by cli:anna (patch night)",
        ),
        ({"event": "operator", "detail": "moved 1 bindings to ts2"}, "moved 1 bindings to ts2"),
        ({"event": "relay_lost", "relay": 7, "sessions": 3, "detail": "oom"}, "relay 7, sessions 3, oom"),
        ({"event": "router_stopping", "drain_s": 30.0, "x": None}, "drain 30s"),
        ({"event": "state_written_again"}, ""),
    ],
)
def test_what_matters_is_told(event: dict[str, Any], expected: str) -> None:
    """What the agent wants, what a reload changed, how many sessions were found alive."""
    assert expected == detail_text(event)


def test_where_and_when() -> None:
    """On a terminal today's events have no date; elsewhere every line has one."""
    now = time.mktime((2026, 3, 1, 12, 0, 0, 0, 0, -1))
    event = {"time": now - 60, "event": "server_up", "service": "ts", "server": "ts1"}
    assert ("11:59:00", "ts/ts1") == tuple(
        event_cells(event, now=now, short=True)[key] for key in ("at", "where")
    )
    assert "2026-03-01 11:59:00" == event_cells(event, now=now, short=False)["at"]
    assert "2026-02-28 12:00:00" == event_cells({**event, "time": now - 86400}, now=now, short=True)["at"]
    assert "" == event_cells({"time": now, "event": "x"}, now=now, short=True)["where"]


def test_a_large_reload_is_short() -> None:
    """Two hundred names are no summary: a few, and how many more."""
    names = [f"ts/ts{number}" for number in range(200)]
    text = changes_text({"servers_added": names, "services_removed": ["gw"]})
    assert (
        "1 service removed: gw; 200 servers added: ts/ts0, ts/ts1, ts/ts2, ts/ts3, ts/ts4 and 195 more"
        == text
    )


def test_what_changed_of_a_server_is_told() -> None:
    """Its new weight or address, where the service tells it."""
    changes = {"servers_changed": ["ts/ts1", "ts/ts2"], "details": {"ts/ts1": ["weight 100 -> 50"]}}
    assert "2 servers changed: ts/ts1 (weight 100 -> 50), ts/ts2" == changes_text(changes)


def test_nothing_that_differs() -> None:
    """Is said, too."""
    assert "nothing in the farm differs" == changes_text({"servers_added": []})


def test_a_service_that_only_has_other_servers_is_not_told_twice() -> None:
    """Its servers say it; one that differs itself is told."""
    changes = {
        "services_changed": ["ts", "gw", "x"],
        "servers_changed": ["ts/ts1", "gw/a"],
        "details": {"gw": ["redispatch 2 -> 1"]},
    }
    text = changes_text(changes)
    assert "2 services changed: gw (redispatch 2 -> 1), x; 2 servers changed: ts/ts1, gw/a" == text
