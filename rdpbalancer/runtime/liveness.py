"""Whether the processes' loops turn: who is stuck is killed, and the service manager's watchdog answered."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from rdpbalancer.ipc.relay_messages import PingRelay
from rdpbalancer.ipc.router_messages import PingRouter
from rdpbalancer.runtime.children import Child
from rdpbalancer.runtime.notify import Notifier
from rdpbalancer.runtime.phase import Phase
from rdpbalancer.telemetry.events import Events

# A loop that has not turned for this long is stuck: its process is killed and started anew. A router's death
# costs no session, a relay's only its own, which were frozen anyway.
HANG_S: Final = 10.0
PING_INTERVAL_S: Final = 1.0


class Liveness:
    """Asks every child, every second, whether its loop turns.

    `children()` returns those that live, `has_router()` whether a router is among them. `every_turn(now)` is
    called after each round.
    """

    def __init__(
        self,
        *,
        children: Callable[[], Sequence[Child]],
        has_router: Callable[[], bool],
        phase: Phase,
        events: Events,
        notifier: Notifier,
        clock: Callable[[], float],
        every_turn: Callable[[float], None],
    ) -> None:
        self._children = children
        self._has_router = has_router
        self._phase = phase
        self._events = events
        self._notifier = notifier
        self._clock = clock
        self._every_turn = every_turn
        self.number = 0

    async def run(self) -> None:
        """Go on for ever: also after a turn that has failed, for nobody would be watched any more."""
        while True:
            asked_at = self._clock()
            await asyncio.sleep(PING_INTERVAL_S)
            try:
                self.turn(asked_at=asked_at, now=self._clock())
            except Exception as error:  # noqa: BLE001 (no descriptor left, for now)
                self._events.exception("internal_error", error, where="watching the processes")

    def turn(self, *, asked_at: float, now: float) -> None:
        """Do one round. `asked_at`: when it was to begin, an interval ago."""
        if now - asked_at > 2 * PING_INTERVAL_S:
            # It was this process that stood still (a suspended machine): nobody else is to blame.
            for child in self._children():
                child.answered_at = now
        self.number += 1
        for child in self._children():
            self._ping(child, now)
        try:
            self._every_turn(now)
        finally:
            self._answer_watchdog(now)

    def _ping(self, child: Child, now: float) -> None:
        silent_s = now - child.answered_at
        if silent_s > HANG_S:
            detail = f"the {child.role} {child.pid} did not answer for {round(silent_s)} s"
            self._events.error(
                "process_stuck", role=child.role, pid=child.pid, silent_s=round(silent_s), detail=detail
            )
            child.kill()
        else:
            ping = PingRouter if child.role == "router" else PingRelay
            child.channel.send(ping(self.number))

    def _answer_watchdog(self, now: float) -> None:
        """Answer only while every loop turns, this one included; or while the service starts or stops."""
        lively = self._has_router() and all(now - child.answered_at < HANG_S for child in self._children())
        if self._notifier.watchdog_s and (lively or not self._phase.ready or self._phase.stopping):
            self._notifier.send(WATCHDOG=1)
