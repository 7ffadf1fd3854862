"""The relays that a router has been given."""

import socket
from collections.abc import Sequence
from typing import Any, cast

import pytest

from rdpbalancer.ipc.router_messages import AddRelay
from rdpbalancer.runtime.relay_roster import RelayRoster


class FakeRelays:
    """Relays that note what is asked of them."""

    def __init__(self) -> None:
        self.added: list[int] = []
        self.migrated: list[list[int]] = []
        self.living: dict[int, int] = {}

    def add(self, pid: int, sock: socket.socket) -> None:
        """Take a relay."""
        self.added.append(pid)
        self.living[pid] = 0
        sock.close()

    def migrate_out(self, relays: Sequence[int]) -> None:
        """Have relays give their sessions away."""
        self.migrated.append(list(relays))

    def retiring(self) -> list[int]:
        """Return those that do."""
        return [pid for pids in self.migrated for pid in pids]

    def sessions(self) -> dict[int, int]:
        """Return who lives."""
        return self.living


@pytest.fixture
def relays() -> FakeRelays:
    """Return no relays yet."""
    return FakeRelays()


@pytest.fixture
def roster(relays: FakeRelays) -> RelayRoster:
    """Return a roster over them."""
    return RelayRoster(cast("Any", relays))


def channel() -> socket.socket:
    """Return a socket that stands for a relay's channel."""
    return socket.socket(socket.AF_UNIX)


def test_relays_are_asked_for_their_sessions_when_there_is_a_farm(
    roster: RelayRoster, relays: FakeRelays
) -> None:
    """Not before: those would pin bindings of services that are not there yet."""
    roster.add(AddRelay(7), channel())
    assert [] == relays.added
    roster.serve()
    roster.add(AddRelay(8), channel())
    assert [7, 8] == relays.added


def test_relays_that_are_too_many_give_their_sessions_away(roster: RelayRoster, relays: FakeRelays) -> None:
    roster.serve()
    roster.add(AddRelay(7, True), channel())
    roster.add(AddRelay(8), channel())
    roster.migrate_outdated()
    assert [[7]] == relays.migrated


def test_relays_of_the_code_before_are_retiring_until_they_are_replaced(
    roster: RelayRoster, relays: FakeRelays
) -> None:
    roster.serve()
    roster.add(AddRelay(7, False, True), channel())
    roster.add(AddRelay(8), channel())
    assert [7] == roster.retiring()
    roster.replace([7])
    assert ([[7]], [7]) == (relays.migrated, roster.retiring())
    del relays.living[7]


def test_a_relay_that_is_gone_is_not_retiring(roster: RelayRoster, relays: FakeRelays) -> None:
    roster.serve()
    roster.add(AddRelay(7, False, True), channel())
    del relays.living[7]
    assert [] == roster.retiring()
