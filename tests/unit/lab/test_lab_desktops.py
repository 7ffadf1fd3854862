"""Desktops stay when their users go; the broker knows where they are."""

from typing import Any

import pytest

from rdpbalancer.lab import desktops as desktops_module
from rdpbalancer.lab.channel import LabError
from rdpbalancer.lab.client import Landing
from rdpbalancer.lab.conversations import BEHAVIOURS
from rdpbalancer.lab.desktops import Broker, Desktops
from rdpbalancer.lab.pattern import pattern
from rdpbalancer.lab.population import Visit, strayed, user_names
from rdpbalancer.lab.server import LabServer
from rdpbalancer.model import Endpoint

ONE = Endpoint("127.0.0.1", 1)
TWO = Endpoint("127.0.0.1", 2)


def test_a_desktop_is_there_on_return() -> None:
    """The same desktop, counted visits, and no connection while the user is away."""
    desktops = Desktops("ts1")
    first, returned = desktops.arrive("alice", now=5.0)
    assert (False, 1, 1, 5.0) == (returned, first.connections, first.visits, first.created_at)
    desktops.leave(first)
    assert (0, True) == (first.connections, "alice" in desktops)
    again, returned = desktops.arrive("alice", now=9.0)
    assert (True, first, 2, 5.0) == (returned, again, again.visits, again.created_at)


def test_users_have_desktops_of_their_own() -> None:
    """Nobody gets another's, also not after a log-off."""
    desktops = Desktops("ts1")
    identifiers = [desktops.arrive(user, now=0.0)[0].id for user in ("alice", "bob")]
    desktops.log_off("alice")
    desktop, returned = desktops.arrive("alice", now=1.0)
    assert not returned
    assert 3 == len({*identifiers, desktop.id})
    assert {"alice", "bob"} == {desktop.user for desktop in desktops}


def test_strangers_cannot_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the bound the oldest desktop without a connection gives way, then the oldest of all."""
    monkeypatch.setattr(desktops_module, "MAX_DESKTOPS", 2)
    desktops = Desktops("ts1")
    desktops.arrive("stays", now=0.0)
    idle, _ = desktops.arrive("idle", now=0.0)
    desktops.leave(idle)
    desktops.arrive("new", now=0.0)
    assert ["stays", "new"] == [desktop.user for desktop in desktops]
    desktops.arrive("newer", now=0.0)
    assert ["new", "newer"] == [desktop.user for desktop in desktops]


def test_the_broker_remembers_the_latest_home() -> None:
    """A user's home is where the last login was, until it is forgotten."""
    broker = Broker()
    assert None is broker.home("alice")
    broker.assign("alice", ONE)
    broker.assign("bob", ONE)
    broker.assign("alice", TWO)
    assert (TWO, ONE) == (broker.home("alice"), broker.home("bob"))
    broker.forget_server(ONE)
    broker.forget("carol")
    assert (TWO, None) == (broker.home("alice"), broker.home("bob"))
    broker.forget("alice")
    assert None is broker.home("alice")


def test_a_broker_may_send_everybody_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Users it does not know have their home there; and it keeps no more users than it may."""
    monkeypatch.setattr(desktops_module, "MAX_DESKTOPS", 1)
    broker = Broker(elsewhere=TWO)
    broker.assign("alice", ONE)
    broker.assign("bob", ONE)
    assert (TWO, ONE) == (broker.home("alice"), broker.home("bob"))


def test_users_on_two_desktops_have_strayed() -> None:
    """Failed visits tell nothing; one desktop many times is well."""
    visits = [
        Visit("alice", Landing("ts1", "ts1-1", returned=False, visit=1, redirects=0)),
        Visit("alice", Landing("ts1", "ts1-1", returned=True, visit=2, redirects=0)),
        Visit("bob", Landing("ts1", "ts1-2", returned=False, visit=1, redirects=0)),
        Visit("bob", error="closed"),
    ]
    assert {} == strayed(visits)
    visits.append(Visit("bob", Landing("ts2", "ts2-1", returned=False, visit=1, redirects=0)))
    assert {"bob": {"ts1-2", "ts2-1"}} == strayed(visits)


def test_names_are_distinct_and_short_enough_for_mstsc() -> None:
    """Nine characters are all that mstsc sends."""
    names = user_names(2000)
    assert (2000, {9}) == (len(set(names)), {len(name) for name in names})


@pytest.mark.parametrize(("offset", "size"), [(0, 0), (0, 10), (250, 3), (1_000_003, 65_536), (7, 300_000)])
def test_the_pattern_is_its_offset(offset: int, size: int) -> None:
    """Each byte is its own offset modulo 251, wherever a piece begins."""
    assert bytes(at % 251 for at in range(offset, offset + size)) == pattern(offset, size)


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ({"behaviour": "dance"}, "desktop-login"),
        ({"security": "none"}, "failure:N"),
        ({"name": "two words"}, "one word"),
        ({"host": "::1", "broker": Broker()}, "IPv6"),
    ],
)
def test_wrong_settings_are_refused(option: dict[str, Any], text: str) -> None:
    """At once, not when the first client comes; the error says what would do."""
    with pytest.raises(LabError, match=text) as caught:
        LabServer(**option)
    assert "bad-option" == caught.value.code


def test_every_behaviour_can_be_chosen() -> None:
    """What the table has, a server accepts."""
    assert list(BEHAVIOURS) == [LabServer(behaviour=name).behaviour for name in BEHAVIOURS]
