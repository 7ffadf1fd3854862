"""Which relays take over the sessions of one that makes way, as the router arranges it.

The router makes a channel between the two and counts; no session passes through it. Its death costs none: the
channel is the relays', and what has been sent over it is reported to the next router.
"""

import itertools
import socket
from collections.abc import Collection

import msgspec

from rdpbalancer.ipc.channel import pair
from rdpbalancer.ipc.relay_messages import MigrateIn, MigrateOut, SessionsArrived
from rdpbalancer.relay.link import Link

# Moves at once. Each is a descriptor of the router, and one of both relays, of those kept back
# (`net.descriptors.RESERVED`).
_MOVES_AT_ONCE = 16


class _Move(msgspec.Struct, eq=False):
    """Up to `left` more sessions are to migrate from `origin` to `target`; `arrivals` have arrived.

    `channel`: the sending end, until the target has said that it holds the other.
    """

    origin: Link
    target: Link
    left: int
    channel: socket.socket | None
    arrivals: int = 0


class MigrationPlanner:
    """All moves from relay to relay.

    `router`: a word that no other router uses. `capacity`: sessions that a relay has descriptors for.
    """

    def __init__(self, router: str, capacity: int) -> None:
        self._router = router
        self._capacity = capacity
        self._moves: dict[str, _Move] = {}
        self._numbers = itertools.count(1)

    def find(self, links: Collection[Link]) -> None:
        """Find targets for the sessions of relays that make way, as far as there is room."""
        for origin in links:
            if origin.migrates_out and origin.compatible:
                self._divide(origin, [link for link in links if link.serves])

    def _divide(self, origin: Link, targets: list[Link]) -> None:
        left = origin.sessions - sum(move.left for move in self._moves.values() if move.origin is origin)
        targets.sort(key=lambda target: target.load)
        for index, target in enumerate(targets):
            even = -(-left // (len(targets) - index))
            share = min(even, self._capacity - target.load)
            if share > 0 and len(self._moves) < _MOVES_AT_ONCE:
                self._arrange(origin, target, share)
                left -= share

    def _arrange(self, origin: Link, target: Link, sessions: int) -> None:
        name = f"{self._router}-{next(self._numbers)}"
        sending, receiving = pair()
        self._moves[name] = _Move(origin, target, sessions, sending)
        target.expected += sessions
        target.send(MigrateIn(name), [receiving])

    def arrived(self, target: Link, arrived: SessionsArrived) -> bool:
        """A target is ready, or has received sessions; return whether a move ends without any."""
        sessions = len(arrived.sessions)
        target.sessions += sessions
        move = self._moves.get(arrived.move)
        if move is None:
            return False  # an earlier router's; who gave them does not count them any more
        move.origin.sessions -= sessions
        move.left -= sessions
        move.arrivals += sessions
        target.expected -= sessions
        if move.channel is not None:
            channel, move.channel = move.channel, None
            move.origin.send(MigrateOut(move.left), [channel])
        if arrived.last:
            self._end(arrived.move)
        return arrived.last and not move.arrivals

    def lost(self, link: Link) -> None:
        """A relay is gone: it receives no more. What it was to send may still arrive."""
        for name, move in list(self._moves.items()):
            if move.target is link:
                self._end(name)

    @property
    def going_on(self) -> bool:
        """Whether sessions may be on their way: from whom to whom is not known, a target may send them on."""
        return bool(self._moves)

    def close(self) -> None:
        """Give up what is not arranged yet. What is goes on without us."""
        for name in list(self._moves):
            self._end(name)

    def _end(self, name: str) -> None:
        move = self._moves.pop(name)
        move.target.expected -= move.left
        if move.channel is not None:
            move.channel.close()
