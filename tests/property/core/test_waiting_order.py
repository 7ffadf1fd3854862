"""The queue against a list sorted by ticket."""

from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    rule,
)

from rdpbalancer.core.ledger import ServerSlot
from rdpbalancer.core.queue import AdmissionQueue, Waiter
from rdpbalancer.model import ServerId
from tests.unit.core.farms import sid

SERVERS = [sid("ts1"), sid("ts2"), sid("ts3")]
wishes = st.sampled_from([None, *SERVERS])


def nothing(_: ServerSlot | None) -> None:
    """Be granted, and do nothing about it."""


class WaitingOrder(RuleBasedStateMachine):
    """Joining, leaving, being served, being sent to look again and coming back, in any order."""

    waiting: Bundle[Waiter] = Bundle("waiting")
    away: Bundle[int] = Bundle("away")

    def __init__(self) -> None:
        super().__init__()
        self.line = AdmissionQueue()
        self.model: list[Waiter] = []

    @rule(target=waiting, server=wishes)
    def join(self, server: ServerId | None) -> Waiter:
        """Come to the end of the line."""
        waiter = self.line.join(server, nothing)
        assert all(waiter.ticket > other.ticket for other in self.model)
        self.model.append(waiter)
        return waiter

    @rule(target=waiting, ticket=consumes(away), server=wishes)
    def come_back(self, ticket: int, server: ServerId | None) -> Waiter:
        """Take one's former place, perhaps with another wish."""
        waiter = self.line.join(server, nothing, ticket=ticket)
        self.model.append(waiter)
        self.model.sort(key=lambda each: each.ticket)
        return waiter

    @rule(waiter=waiting)
    def leave(self, waiter: Waiter) -> None:
        """Leave, perhaps for the second time."""
        self.line.leave(waiter)
        self.model = [each for each in self.model if each is not waiter]

    @rule(target=away)
    def drain(self) -> MultipleResults[int]:
        """Send everybody to look again."""
        assert self.model == self.line.drain()
        tickets = [waiter.ticket for waiter in self.model]
        self.model = []
        return multiple(*tickets)

    @rule(server=st.sampled_from(SERVERS), takes_new=st.booleans())
    def serve(self, server: ServerId, takes_new: bool) -> None:  # noqa: FBT001 - drawn by name
        """Give a place to the first whom it suits."""
        suits = [each for each in self.model if each.server == server or (takes_new and each.server is None)]
        served = self.line.next_for(server, takes_new=takes_new)
        assert (suits[0] if suits else None) is served
        self.model = [each for each in self.model if each is not served]

    @invariant()
    def lengths_agree(self) -> None:
        """In all, and for each server."""
        assert len(self.model) == len(self.line)
        for server in SERVERS:
            assert sum(each.server == server for each in self.model) == self.line.waiting_for(server)


TestWaitingOrder = WaitingOrder.TestCase
