"""Why a connection goes to the server whose slot it was granted from the queue, or gives it back."""

from typing import Any

import pytest

from rdpbalancer.core.farm import PersistencePolicy
from rdpbalancer.core.route import Route, RouteRequest, route_granted
from rdpbalancer.core.servers import ServerView
from rdpbalancer.model import Endpoint, Key, Method, Reason, ServerId
from tests.unit.core.farms import ALICE, real_server, service_of, sid, view

HOME = Key(Method.SOURCE_IP, "192.0.2.1")
TS1, TS2 = (real_server(name, max_connections=10) for name in ("ts1", "ts2"))
SPARE = real_server("spare", max_connections=10, backup=True)
FULL = 10


def granted(
    *views: ServerView, waited_for: ServerId | None = None, waits: bool = True, **request: Any
) -> Route | None:
    """Return what becomes of a slot on the first of these servers."""
    configured = service_of(list(views), persistence=PersistencePolicy(wait_when_full=waits))
    asked = RouteRequest("192.0.2.1", **request)
    return route_granted(asked, configured, views, views[0], waited_for=waited_for)


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        ({}, Route(sid("ts1"), Reason.SCHEDULED)),
        ({"key": ALICE}, Route(sid("ts1"), Reason.SCHEDULED, binds=True)),
        ({"key": ALICE, "excluded": [sid("ts2")]}, Route(sid("ts1"), Reason.REDISPATCH, binds=True)),
        ({"key": ALICE, "bound_server": "ts1"}, Route(sid("ts1"), Reason.COOKIE, binds=True)),
        ({"key": HOME, "bound_server": "ts1"}, Route(sid("ts1"), Reason.SOURCE_IP, binds=True)),
    ],
    ids=["new", "new-with-a-key", "failed-elsewhere", "bound", "bound-by-source"],
)
def test_a_slot_that_suits_is_taken(request_: dict[str, Any], expected: Route) -> None:
    assert expected == granted(view(TS1, load=FULL), view(TS2), **request_)


def test_a_backup_s_slot_says_so() -> None:
    assert Route(sid("spare"), Reason.BACKUP) == granted(view(SPARE), view(TS1, "down"))


@pytest.mark.parametrize("load", [0, FULL], ids=["free", "full"])
def test_a_key_bound_elsewhere_meanwhile_gives_the_slot_back(load: int) -> None:
    """Its desktop is there: it goes there, or waits for it."""
    assert granted(view(TS1), view(TS2, load=load), key=ALICE, bound_server="ts2") is None


@pytest.mark.parametrize(
    ("other", "waits", "excluded"),
    [("down", True, []), ("strictly-draining", True, []), ("online", True, [sid("ts2")])],
    ids=["down", "draining", "failed"],
)
def test_a_slot_is_kept_where_the_bound_server_would_not_take_it(
    other: str, excluded: list[ServerId], *, waits: bool
) -> None:
    """Given back it would be granted to the next such connection, and so on for ever."""
    kept = Route(sid("ts1"), Reason.REDISPATCH, binds=True, replacing="ts2")
    actual = granted(
        view(TS1), view(TS2, other), key=ALICE, bound_server="ts2", excluded=excluded, waits=waits
    )
    assert kept == actual


def test_a_slot_is_kept_where_the_bound_server_is_full_and_nobody_waits_for_it() -> None:
    kept = Route(sid("ts1"), Reason.REDISPATCH, binds=True, replacing="ts2")
    actual = granted(view(TS1), view(TS2, load=FULL), key=ALICE, bound_server="ts2", waits=False)
    assert kept == actual


# ---- routing tokens ---------------------------------------------------------------------------------


def test_the_server_that_a_token_names_was_waited_for() -> None:
    token = Endpoint("ts1.example.net", 3389)
    expected = Route(sid("ts1"), Reason.TOKEN)
    assert expected == granted(view(TS1), view(TS2), token=token, key=ALICE, waited_for=sid("ts1"))


def test_a_binding_was_waited_for_though_there_is_a_token() -> None:
    """It names another server, which could not be followed."""
    token = Endpoint("ts2.example.net", 3389)
    expected = Route(sid("ts1"), Reason.COOKIE, binds=True)
    actual = granted(
        view(TS1), view(TS2, "halted"), token=token, key=ALICE, bound_server="ts1", waited_for=sid("ts1")
    )
    assert expected == actual


def test_the_maker_of_a_number_was_waited_for() -> None:
    expected = Route(sid("ts1"), Reason.TOKEN)
    assert expected == granted(view(TS1), view(TS2), follows=["ts1"], waited_for=sid("ts1"))


@pytest.mark.parametrize("load", [0, FULL], ids=["free", "full"])
def test_a_number_goes_to_its_known_maker_which_can_be_used_by_now(load: int) -> None:
    """It came back into the farm while the client waited for any server: no other takes the number."""
    assert granted(view(TS1), view(TS2, load=load), follows=["ts2"], maker_known=True) is None


def test_a_number_s_known_maker_has_granted_the_slot() -> None:
    expected = Route(sid("ts1"), Reason.TOKEN)
    assert expected == granted(view(TS1, load=FULL), view(TS2), follows=["ts1"], maker_known=True)


@pytest.mark.parametrize("known", [True, False])
def test_a_number_whose_maker_cannot_be_used_keeps_its_slot(*, known: bool) -> None:
    expected = Route(sid("ts1"), Reason.SCHEDULED)
    assert expected == granted(view(TS1), view(TS2, "down"), follows=["ts2"], maker_known=known)
