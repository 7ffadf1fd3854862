"""Routing, rule by rule, in the order of docs/explanation/how-a-connection-is-placed.md."""

import random
from dataclasses import replace
from typing import Any

import pytest
from msgspec.structs import replace as but

from rdpbalancer.core.farm import PersistencePolicy
from rdpbalancer.core.route import (
    Decision,
    Enqueue,
    Reject,
    Route,
    RouteRequest,
    SchedulerState,
    names_server,
    preferred_servers,
    route,
)
from rdpbalancer.core.servers import ServerView
from rdpbalancer.model import Endpoint, Health, Intent, Key, Method, Reason
from tests.unit.core.farms import ALICE, STATUSES, real_server, server_status, service_of, sid, view

HOME = Key(Method.SOURCE_IP, "192.0.2.1")
REDISPATCH = PersistencePolicy(wait_when_full=False)
TS1_TOKEN = Endpoint("ts1.example.net", 3389)

TS1, TS2, TS3 = (real_server(name, max_connections=10) for name in ("ts1", "ts2", "ts3"))
SPARE, SPARE2 = (real_server(name, max_connections=10, backup=True) for name in ("spare", "spare2"))
FULL = 10

scheduled = Route(sid("ts2"), Reason.SCHEDULED)
moved = Route(sid("ts2"), Reason.REDISPATCH)


def asked(
    *views: ServerView,
    policy: PersistencePolicy | None = None,
    scheduler: str = "first-available",
    **query: Any,
) -> tuple[Decision, bool]:
    """Return the decision over these servers, chosen in their order unless the scheduler says otherwise."""
    configured = service_of(list(views), persistence=policy or PersistencePolicy(), scheduler=scheduler)
    return route(RouteRequest("192.0.2.1", **query), configured, views, SchedulerState(random.Random(1)))


def decided(*views: ServerView, **query: Any) -> Decision:
    """Return the decision alone, for a connection without a token."""
    decision, token_missed = asked(*views, **query)
    assert not token_missed
    return decision


# ---- 1. routing token -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "expected", "missed"),
    [
        ("online", Route(sid("ts1"), Reason.TOKEN), False),
        ("draining", Route(sid("ts1"), Reason.TOKEN), False),
        ("strictly-draining", Route(sid("ts1"), Reason.TOKEN), False),
        ("agent-draining", Route(sid("ts1"), Reason.TOKEN), False),
        ("weight-0", Route(sid("ts1"), Reason.TOKEN), False),
        ("agent-0-percent", Route(sid("ts1"), Reason.TOKEN), False),
        ("halted", scheduled, True),
        ("agent-halted", scheduled, True),
        ("down", scheduled, True),
        ("agent-down", scheduled, True),
        ("unknown", Route(sid("ts1"), Reason.TOKEN), False),
    ],
)
def test_a_token_leads_to_its_server(status: str, expected: Decision, *, missed: bool) -> None:
    """Online or draining, and not down; otherwise the connection falls through, and that is counted.

    A server whose first check has not ended is dialled: the dial will tell.
    """
    assert (expected, missed) == asked(view(TS1, status), view(TS2), token=TS1_TOKEN)


def test_a_token_goes_before_a_binding_and_makes_none() -> None:
    """A connection placed by a token creates and renews no cookie or source binding."""
    actual = asked(view(TS1), view(TS2), token=TS1_TOKEN, key=ALICE, bound_server="ts2")
    assert (Route(sid("ts1"), Reason.TOKEN, binds=False, replacing=None), False) == actual


def test_a_token_for_a_stranger_leads_nowhere() -> None:
    """Only a configured server may be named: the balancer is no open proxy."""
    stranger = Endpoint("203.0.113.9", 3389)
    assert (Route(sid("ts1"), Reason.SCHEDULED), True) == asked(view(TS1), view(TS2), token=stranger)


def test_a_token_that_cannot_be_followed_leaves_the_binding() -> None:
    expected = Route(sid("ts2"), Reason.COOKIE, binds=True)
    actual = asked(view(TS1, "down"), view(TS2), view(TS3), token=TS1_TOKEN, key=ALICE, bound_server="ts2")
    assert (expected, True) == actual


@pytest.mark.parametrize(
    ("policy", "expected", "missed"),
    [(None, Enqueue(sid("ts1")), False), (REDISPATCH, scheduled, True)],
)
def test_a_token_for_a_full_server_waits_for_it(
    policy: PersistencePolicy | None, expected: Decision, *, missed: bool
) -> None:
    """Its desktop is there; `when_full: redispatch` says otherwise."""
    assert (expected, missed) == asked(view(TS1, load=FULL), view(TS2), token=TS1_TOKEN, policy=policy)


def test_a_token_leads_to_a_backup_server_too() -> None:
    token = Endpoint("spare.example.net", 3389)
    assert (Route(sid("spare"), Reason.TOKEN), False) == asked(view(TS1), view(SPARE), token=token)


def test_a_token_does_not_lead_to_a_server_that_failed_this_connection() -> None:
    expected = Route(sid("ts2"), Reason.REDISPATCH)
    assert (expected, True) == asked(view(TS1), view(TS2), token=TS1_TOKEN, excluded={sid("ts1")})


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        (Endpoint("ts1.example.net", 3389), True),
        (Endpoint("10.0.0.1", 3389), True),
        (Endpoint("10.0.0.2", 3389), True),
        (Endpoint("203.0.113.1", 4000), True),
        (Endpoint("ts1.example.net", 3390), False),
        (Endpoint("10.0.0.1", 4000), False),
        (Endpoint("203.0.113.1", 3389), False),
        (Endpoint("10.0.0.3", 3389), False),
    ],
)
def test_a_server_is_named_by_its_addresses(named: Endpoint, *, expected: bool) -> None:
    """As configured, as resolved, or as a token may write it, each with its own port."""
    server = replace(TS1, token_addresses=(Endpoint("203.0.113.1", 4000),))
    status = replace(STATUSES["online"], addresses=("10.0.0.1", "10.0.0.2"))
    assert expected is names_server(view(server, status), named)


# ---- 2. bindings ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ("online", Route(sid("ts1"), Reason.COOKIE, binds=True)),
        ("draining", Route(sid("ts1"), Reason.COOKIE, binds=True)),
        ("agent-draining", Route(sid("ts1"), Reason.COOKIE, binds=True)),
        ("weight-0", Route(sid("ts1"), Reason.COOKIE, binds=True)),
        ("agent-0-percent", Route(sid("ts1"), Reason.COOKIE, binds=True)),
        ("strictly-draining", but(moved, binds=True, replacing="ts1")),
        ("halted", but(moved, binds=True, replacing="ts1")),
        ("agent-halted", but(moved, binds=True, replacing="ts1")),
        ("down", but(moved, binds=True, replacing="ts1")),
        ("agent-down", but(moved, binds=True, replacing="ts1")),
        ("unknown", Route(sid("ts1"), Reason.COOKIE, binds=True)),
    ],
)
def test_a_binding_leads_home(status: str, expected: Decision) -> None:
    """A draining server keeps its users, a strictly draining one does not; others are bound anew.

    A server whose first check has not ended is dialled: after a start a slow check is no reason to give its
    users a new desktop elsewhere, and bind them to it.
    """
    assert expected == decided(view(TS1, status), view(TS2), key=ALICE, bound_server="ts1")


@pytest.mark.parametrize(("key", "reason"), [(ALICE, Reason.COOKIE), (HOME, Reason.SOURCE_IP)])
def test_the_reason_names_the_method(key: Key, reason: Reason) -> None:
    assert Route(sid("ts2"), reason, binds=True) == decided(view(TS1), view(TS2), key=key, bound_server="ts2")


@pytest.mark.parametrize("status", ["online", "draining"])
@pytest.mark.parametrize(
    ("policy", "expected"),
    [(None, Enqueue(sid("ts1"))), (REDISPATCH, but(moved, binds=True, replacing="ts1"))],
)
def test_a_binding_to_a_full_server_waits_for_it(
    status: str, policy: PersistencePolicy | None, expected: Decision
) -> None:
    full = view(TS1, status, load=FULL)
    assert expected == decided(full, view(TS2), key=ALICE, bound_server="ts1", policy=policy)


def test_a_binding_to_a_full_server_that_is_down_does_not_wait() -> None:
    full = view(TS1, "down", load=FULL)
    assert but(moved, binds=True, replacing="ts1") == decided(full, view(TS2), key=ALICE, bound_server="ts1")


def test_a_binding_to_a_server_that_failed_this_connection_moves() -> None:
    actual = decided(view(TS1), view(TS2), key=ALICE, bound_server="ts1", excluded={sid("ts1")})
    assert but(moved, binds=True, replacing="ts1") == actual


def test_a_binding_to_a_server_no_longer_configured_moves() -> None:
    expected = Route(sid("ts1"), Reason.REDISPATCH, binds=True, replacing="gone")
    assert expected == decided(view(TS1), view(TS2), key=ALICE, bound_server="gone")


def test_a_binding_to_a_backup_server_is_kept() -> None:
    """Its desktop is there, whatever else came back meanwhile."""
    expected = Route(sid("spare"), Reason.COOKIE, binds=True)
    assert expected == decided(view(TS1), view(SPARE), key=ALICE, bound_server="spare")


# ---- 3. scheduler -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("key", "binds"), [(None, False), (ALICE, True), (HOME, True)])
def test_a_key_without_binding_is_bound_to_the_scheduled_server(key: Key | None, *, binds: bool) -> None:
    assert Route(sid("ts1"), Reason.SCHEDULED, binds=binds) == decided(view(TS1), view(TS2), key=key)


@pytest.mark.parametrize("status", sorted(set(STATUSES) - {"online"}))
def test_new_users_go_only_to_servers_that_take_them(status: str) -> None:
    """Up, online, and of a weight: for each other state the next server is used."""
    assert scheduled == decided(view(TS1, status), view(TS2))


def test_new_users_go_past_full_servers() -> None:
    assert scheduled == decided(view(TS1, load=FULL), view(TS2, load=FULL - 1))


def test_capacity_0_is_no_limit() -> None:
    unlimited = view(real_server("ts1", max_connections=0), load=100_000)
    assert Route(sid("ts1"), Reason.SCHEDULED) == decided(unlimited)


@pytest.mark.parametrize(
    ("scheduler", "expected"),
    [("weighted-least-connections", "ts3"), ("first-available", "ts1"), ("weighted-round-robin", "ts1")],
)
def test_the_configured_scheduler_chooses(scheduler: str, expected: str) -> None:
    views = [view(TS1, load=3), view(TS2, load=2), view(TS3, load=1)]
    assert Route(sid(expected), Reason.SCHEDULED) == decided(*views, scheduler=scheduler)


def test_the_wheel_turns_from_one_decision_to_the_next() -> None:
    views = [view(TS1), view(TS2), view(TS3)]
    service = service_of(views, scheduler="weighted-round-robin")
    state = SchedulerState(random.Random(1))
    decisions = [route(RouteRequest("192.0.2.1"), service, views, state)[0] for _ in range(6)]
    expected = [Route(sid(name), Reason.SCHEDULED) for name in ("ts1", "ts2", "ts3")] * 2
    assert expected == decisions


def test_what_has_been_tried_is_not_tried_again() -> None:
    assert moved == decided(view(TS1), view(TS2), excluded={sid("ts1")})


# ---- 4. backup servers ------------------------------------------------------------------------------


@pytest.mark.parametrize("status", sorted(set(STATUSES) - {"online"}))
def test_backups_serve_when_no_ordinary_server_does(status: str) -> None:
    assert Route(sid("spare"), Reason.BACKUP) == decided(view(SPARE), view(TS1, status))


def test_backups_rest_while_an_ordinary_server_is_usable() -> None:
    assert scheduled == decided(view(SPARE), view(TS2))


def test_backups_are_no_overflow() -> None:
    """Full is usable: one waits rather than ending on the server that says sorry."""
    assert Enqueue(None) == decided(view(SPARE), view(TS1, load=FULL), view(TS2, "down"))


def test_backups_serve_when_every_ordinary_server_failed_this_connection() -> None:
    excluded = {sid("ts1"), sid("ts2")}
    expected = Route(sid("spare"), Reason.BACKUP, binds=True, replacing="ts1")
    assert expected == decided(
        view(TS1), view(TS2), view(SPARE), excluded=excluded, key=ALICE, bound_server="ts1"
    )


def test_the_second_backup_follows_the_first() -> None:
    actual = decided(view(TS1, "down"), view(SPARE), view(SPARE2), excluded={sid("spare")})
    assert Route(sid("spare2"), Reason.BACKUP) == actual


# ---- 5. queue and nobody ----------------------------------------------------------------------------


def test_all_full_is_a_queue_for_any() -> None:
    assert Enqueue(None) == decided(view(TS1, load=FULL), view(TS2, load=FULL + 1), key=ALICE)


def test_full_backups_are_waited_for_when_nothing_else_is_left() -> None:
    assert Enqueue(None) == decided(view(TS1, "down"), view(SPARE, load=FULL))


def test_a_failed_server_beside_a_full_one_is_a_queue() -> None:
    assert Enqueue(None) == decided(view(TS1), view(TS2, load=FULL), excluded={sid("ts1")})


@pytest.mark.parametrize("others", [[], ["down"], ["halted", "draining"]])
def test_a_first_check_is_waited_for(others: list[str]) -> None:
    """A service whose servers are all new after a reload turns nobody away for want of a second."""
    views = [view(f"ts{number}", status) for number, status in enumerate(["unknown", *others])]
    assert Enqueue(None) == decided(*views)


def test_a_first_check_is_not_waited_for_where_it_could_not_help() -> None:
    """The server takes nobody new, whatever is found."""
    drained = server_status(Health.CHECKING, intent=Intent.DRAIN)
    assert Reject("all-down") == decided(view(TS1, drained))


def test_who_can_go_at_once_does_not_wait_for_a_first_check() -> None:
    assert Route(sid("ts2"), Reason.SCHEDULED) == decided(view(TS1, "unknown"), view(TS2))


@pytest.mark.parametrize(
    ("statuses", "excluded", "why"),
    [
        ([], (), "all-down"),
        (["down", "agent-down"], (), "all-down"),
        (["halted", "draining"], (), "all-draining-or-halted"),
        (["down", "weight-0"], (), "all-draining-or-halted"),
        (["online", "online"], (0, 1), "all-failed"),
        (["online", "down"], (0,), "all-failed"),
    ],
)
def test_nobody_and_why(statuses: list[str], excluded: tuple[int, ...], why: str) -> None:
    """Three words that alerts rely on: down, not wanted, or failed for this connection."""
    views = [view(f"ts{number}", status) for number, status in enumerate(statuses)]
    assert Reject(why) == decided(*views, excluded={sid(f"ts{number}") for number in excluded})


@pytest.mark.parametrize(
    ("freed", "others", "expected"),
    [
        (view(TS1), [view(TS2)], True),
        (view(TS1), [], True),
        (view(TS1, "draining"), [], False),
        (view(TS1, "down"), [view(TS2)], False),
        (view(SPARE), [view(TS1)], False),
        (view(SPARE), [view(TS1, load=FULL)], False),
        (view(SPARE), [view(TS1, "draining")], True),
        (view(SPARE), [view(TS1, "down"), view(SPARE2)], True),
        (view(SPARE, "halted"), [view(TS1, "down")], False),
    ],
)
def test_whose_freed_place_suits_anybody(
    freed: ServerView, others: list[ServerView], *, expected: bool
) -> None:
    """That of a server which takes new users; a backup's only while no ordinary one does."""
    assert expected is (freed.takes_new and not preferred_servers(freed, [freed, *others]))


def test_ordinary_servers_go_before_a_backup() -> None:
    """Those that take new users, full or not; a backup goes before nobody."""
    views = [view(TS1), view(TS2, load=FULL), view(TS3, "down"), view(SPARE), view(SPARE2)]
    assert [sid("ts1"), sid("ts2")] == preferred_servers(views[3], views)
    assert [] == preferred_servers(views[0], views)
