"""A relay: a process that holds sessions, moves their bytes, and decides nothing.

It has two channels. The router's hands it sessions and hears of their end; it outlives the router, because
the supervisor holds the other end open. The supervisor's asks whether the loop turns, and ends the process.
While sessions move from relay to relay there are channels to the others too.
"""

import asyncio
import os
import socket
import time

import msgspec

from rdpbalancer.ipc.channel import Channel
from rdpbalancer.ipc.relay_messages import (
    PROTOCOL_VERSION,
    TO_RELAY,
    Adopt,
    ByteCounts,
    Kick,
    LiveSessions,
    MigrateIn,
    MigrateOut,
    PingRelay,
    PongRelay,
    RelayHello,
    RetireRelay,
    SessionEnded,
    SessionsEnded,
    StopRelay,
)
from rdpbalancer.model import CloseReason, CloseSide
from rdpbalancer.relay.migration import Migrations
from rdpbalancer.relay.mover import MakeMover, MovedSession
from rdpbalancer.relay.pump import Pump

# A session's state is its facts (at most about 2 KiB) and a few numbers: 32 fit a message with room to spare.
_STATES_PER_MESSAGE = 32
_COUNTS_PER_MESSAGE = 1000
# Ends of one turn of the loop go together.
_ENDS_PER_MESSAGE = 32
TICK_S = 1.0
# How often a relay that has nothing left looks whether all it has said has been read.
_UNREAD_PAUSE_S = 0.02


class Relay:
    """The relay's side of both channels, and its mover."""

    def __init__(self, router: socket.socket, supervisor: socket.socket, *, mover: MakeMover = Pump) -> None:
        loop = asyncio.get_running_loop()
        self._mover = mover(loop, self._ended)
        self._stopped: asyncio.Event = asyncio.Event()
        self._report_interval_s = 5.0
        self._report_at = 0.0
        self._retiring = False
        self._moved: dict[str, tuple[str, int, int]] = {}
        self._ends: list[SessionEnded] = []
        self._looking_again: asyncio.TimerHandle | None = None
        self._router = Channel(router, TO_RELAY, on_message=self._from_router, on_close=self._stopped.set)
        self._supervisor = Channel(
            supervisor, TO_RELAY, on_message=self._from_supervisor, on_close=self._stopped.set
        )
        self._moves = Migrations(
            self._mover,
            tell=self._router.send,
            sent=lambda session: self._moved.pop(session.id, None),
            changed=self._stop_if_retired,
        )

    async def run(self) -> None:
        """Serve until the supervisor says stop, or is gone."""
        loop = asyncio.get_running_loop()
        while not self._stopped.is_set():
            self._tick(loop.time())
            try:
                async with asyncio.timeout(TICK_S):
                    await self._stopped.wait()
            except TimeoutError:
                continue
        self._moves.close()
        for session in self._mover:
            self._mover.kick(session.id, CloseReason.SHUTDOWN)
        self._mover.close()
        self._report_ends()
        self._router.close()
        self._supervisor.close()

    def _tick(self, now: float) -> None:
        self._moved.update((count[0], count) for count in self._mover.tick(now))
        self._stop_if_retired()
        if now < self._report_at:
            return
        self._report_at = now + self._report_interval_s
        counts = list(self._moved.values())
        self._moved.clear()
        for start in range(0, len(counts), _COUNTS_PER_MESSAGE):
            self._router.send(ByteCounts(counts[start : start + _COUNTS_PER_MESSAGE]))

    def _from_router(self, message: msgspec.Struct, sockets: list[socket.socket]) -> None:
        match message:
            case Adopt():
                pairs = zip(sockets[::2], sockets[1::2], strict=True)
                for carried, pair in zip(message.sessions, pairs, strict=True):
                    self._mover.resume(carried, pair)
            case Kick():
                for session_id in message.ids:
                    self._mover.kick(session_id, message.reason)
            case RetireRelay():
                self._retiring = True
                self._stop_if_retired()
            case MigrateOut():
                self._moves.migrate_out(message.sessions, sockets[0])
            case MigrateIn() if self._stopped.is_set():
                sockets[0].close()  # nobody would be there to take anything
            case MigrateIn():
                self._moves.migrate_in(message.move, sockets[0])
            case RelayHello():
                self._greet(message)

    def _greet(self, hello: RelayHello) -> None:
        """A (new) router: tell it every session, whether it speaks our version or not; it decides."""
        self._report_ends()
        self._moves.send_no_more()
        self._report_interval_s = hello.report_interval_s
        self._router.send(RelayHello(PROTOCOL_VERSION, os.getpid(), router=hello.router))
        states = [*(session.state for session in self._mover), *self._moves.waiting()]
        for start in range(0, len(states), _STATES_PER_MESSAGE):
            self._router.send(LiveSessions(states[start : start + _STATES_PER_MESSAGE], last=False))
        self._router.send(LiveSessions([], last=True))

    def _stop_if_retired(self) -> None:
        if self._looking_again is not None:
            self._looking_again.cancel()
        self._looking_again = None
        if not self._retiring or len(self._mover) or self._ends or self._moves.going_on:
            return
        # What lies in the channel would end with it, if its reader died just now: the records of sessions.
        if self._router.unread:
            self._looking_again = asyncio.get_running_loop().call_later(
                _UNREAD_PAUSE_S, self._stop_if_retired
            )
        else:
            self._stopped.set()

    def _from_supervisor(self, message: msgspec.Struct, sockets: list[socket.socket]) -> None:
        del sockets
        match message:
            case PingRelay():
                self._supervisor.send(PongRelay(message.number))
            case StopRelay():
                self._stopped.set()

    def _ended(self, session: MovedSession, reason: CloseReason, side: CloseSide) -> None:
        self._moved.pop(session.id, None)
        counts = session.counts
        self._ends.append(SessionEnded(session.id, session.facts, reason, side, *counts, time.time()))
        if len(self._ends) == 1:
            asyncio.get_running_loop().call_soon(self._report_ends)
        elif len(self._ends) == _ENDS_PER_MESSAGE:
            self._report_ends()

    def _report_ends(self) -> None:
        self._moves.report()  # a session may have come and ended in one turn
        if self._ends:
            ends, self._ends = self._ends, []
            self._router.send(SessionsEnded(ends))
        self._stop_if_retired()
