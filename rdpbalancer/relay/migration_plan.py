"""Heirs: the relays that take over the sessions of one that surrenders, as the router arranges it.

The router lays a line between the two and counts; it never has a session in hand. Its death costs none: the
line is the relays', and what has been said over it is told to the next router.
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
    """Up to `left` more sessions are to migrate from `origin` to `heir`; `brought` have arrived.

    `line`: the giving end, until the heir has said that it holds the other.
    """

    origin: Link
    heir: Link
    left: int
    line: socket.socket | None
    brought: int = 0


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
        """Find heirs for all sessions of relays that surrender and have none yet, as far as there is room."""
        for origin in links:
            if origin.surrenders and origin.compatible:
                self._divide(origin, [link for link in links if link.serves])

    def _divide(self, origin: Link, heirs: list[Link]) -> None:
        left = origin.sessions - sum(move.left for move in self._moves.values() if move.origin is origin)
        heirs.sort(key=lambda heir: heir.load)
        for index, heir in enumerate(heirs):
            even = -(-left // (len(heirs) - index))
            share = min(even, self._capacity - heir.load)
            if share > 0 and len(self._moves) < _MOVES_AT_ONCE:
                self._arrange(origin, heir, share)
                left -= share

    def _arrange(self, origin: Link, heir: Link, sessions: int) -> None:
        name = f"{self._router}-{next(self._numbers)}"
        giving, inheriting = pair()
        self._moves[name] = _Move(origin, heir, sessions, giving)
        heir.expected += sessions
        heir.send(MigrateIn(name), [inheriting])

    def arrived(self, heir: Link, arrived: SessionsArrived) -> bool:
        """A relay is there to inherit, or has inherited sessions; return whether a move ends in vain."""
        sessions = len(arrived.sessions)
        heir.sessions += sessions
        move = self._moves.get(arrived.move)
        if move is None:
            return False  # an earlier router's; who gave them does not count them any more
        move.origin.sessions -= sessions
        move.left -= sessions
        move.brought += sessions
        heir.expected -= sessions
        if move.line is not None:
            line, move.line = move.line, None
            move.origin.send(MigrateOut(move.left), [line])
        if arrived.last:
            self._end(arrived.move)
        return arrived.last and not move.brought

    def lost(self, link: Link) -> None:
        """A relay is gone: it inherits no more. What it was to give may still arrive."""
        for name, move in list(self._moves.items()):
            if move.heir is link:
                self._end(name)

    @property
    def going_on(self) -> bool:
        """Whether sessions may be on their way: from whom to whom is not known, an heir may give them on."""
        return bool(self._moves)

    def close(self) -> None:
        """Give up what is not arranged yet. What is goes on without us."""
        for name in list(self._moves):
            self._end(name)

    def _end(self, name: str) -> None:
        move = self._moves.pop(name)
        move.heir.expected -= move.left
        if move.line is not None:
            move.line.close()
