"""The queue of a virtual service: who waits for a place, and whose turn it is.

First come first served among those who could use the place that became free. A waiter whose desktop is on one
server waits for that server; any other takes the first place that suits.
"""

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

from rdpbalancer.core.ledger import ServerSlot
from rdpbalancer.model import ServerId


@dataclass(frozen=True, slots=True)
class QueuedClient:
    """Who waits, for operators to see: `ip:port`, the user as sent, and since when (monotonic)."""

    address: str
    user: str | None
    since: float


@dataclass(slots=True, eq=False)
class Waiter:
    """One connection in the queue.

    `server` None: any server will do. `grant` is called once, with a lease on the place, or with None when
    the farm has changed and the connection should look again (it keeps its `ticket`, its place in the line).
    `refused`: servers that failed this connection, whose places do not suit it.
    """

    ticket: int
    server: ServerId | None
    grant: Callable[[ServerSlot | None], None]
    refused: Collection[ServerId] = ()
    client: QueuedClient | None = None

    def takes(self, server: ServerId, *, takes_new: bool, after: Collection[ServerId] = ()) -> bool:
        """Whether a place on `server` suits; `takes_new`: it is one for users without a binding, too.

        `after`: servers that go before this one (a backup); only who has been failed by all of them takes it.
        """
        if self.server is not None:
            return self.server == server
        return takes_new and server not in self.refused and all(each in self.refused for each in after)


class AdmissionQueue:
    """The waiters of one virtual service, in the order of their tickets."""

    def __init__(self) -> None:
        self._next_ticket = 0
        self._waiters: OrderedDict[int, Waiter] = OrderedDict()

    def __len__(self) -> int:
        return len(self._waiters)

    def join(
        self,
        server: ServerId | None,
        grant: Callable[[ServerSlot | None], None],
        *,
        ticket: int | None = None,
        refused: Collection[ServerId] = (),
        client: QueuedClient | None = None,
    ) -> Waiter:
        """Enter the line: at its end, or at the place of an earlier `ticket`."""
        if ticket is None:
            ticket = self._next_ticket
            self._next_ticket += 1
        waiter = Waiter(ticket, server, grant, refused, client)
        # Whoever was drained comes back in order, and is at the end again: sorting each time would make the
        # return of a long line quadratic.
        overtakes = bool(self._waiters) and ticket < next(reversed(self._waiters))
        self._waiters[ticket] = waiter
        if overtakes:
            self._waiters = OrderedDict(sorted(self._waiters.items()))
        return waiter

    def __iter__(self) -> Iterator[Waiter]:
        """Yield who waits, the first first. The line may be changed meanwhile."""
        return iter(list(self._waiters.values()))

    def leave(self, waiter: Waiter) -> None:
        """Leave the line. Leaving twice does nothing."""
        if self._waiters.get(waiter.ticket) is waiter:
            del self._waiters[waiter.ticket]

    def waiting_for(self, server: ServerId) -> int:
        """Return how many wait for that very server."""
        return sum(waiter.server == server for waiter in self._waiters.values())

    def next_for(
        self, server: ServerId, *, takes_new: bool, after: Collection[ServerId] = ()
    ) -> Waiter | None:
        """Take the first waiter for a place on `server` out of the line.

        `takes_new`: whether the server takes users without a binding; if not, only who waits for that very
        server gets its place. `after`: servers that go before this one.
        """
        waiter = self._first_for(server, takes_new=takes_new, after=after)
        if waiter is not None:
            del self._waiters[waiter.ticket]
        return waiter

    def take_out(self, hopeless: Callable[[Waiter], bool]) -> list[Waiter]:
        """Take those out, in order, of whom `hopeless` is true."""
        waiters = [waiter for waiter in self._waiters.values() if hopeless(waiter)]
        for waiter in waiters:
            del self._waiters[waiter.ticket]
        return waiters

    def drain(self) -> list[Waiter]:
        """Take everybody out, in order: the farm has changed and all should look again."""
        waiters = list(self._waiters.values())
        self._waiters.clear()
        return waiters

    def _first_for(self, server: ServerId, *, takes_new: bool, after: Collection[ServerId]) -> Waiter | None:
        for waiter in self._waiters.values():
            if waiter.takes(server, takes_new=takes_new, after=after):
                return waiter
        return None
