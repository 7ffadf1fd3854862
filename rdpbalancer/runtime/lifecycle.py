"""How a router ends: it drains, or makes way for the next one; either way nothing it has in hand is lost."""

import asyncio
from collections.abc import Awaitable, Callable

from rdpbalancer.core.dispatch import Dispatcher
from rdpbalancer.model import CloseReason, ServerId
from rdpbalancer.relay.service import RelayService
from rdpbalancer.runtime.frontends import Frontends
from rdpbalancer.session import ConnectionHandler
from rdpbalancer.telemetry.events import Events

# At the stop, for the records of all sessions: some seconds for 60,000, more on a busy machine.
_LAST_RECORDS_S = 32.0
# Without a single one for this long no more will come: a relay that hangs has been killed by then (after
# 10 s), and the records of its sessions written.
_NO_RECORD_S = 12.0
# What is half open when the router makes way for the next one: longer than a handshake and a slow server
# together is not worth the wait of everybody who comes meanwhile.
_RETIRE_S = 5.0
# What is said to a relay is in its channel at once, unless the relay hangs.
_SEND_S = 2.0
_SEND_POLL_S = 0.005


class Lifecycle:
    """Waits for a router's end, and carries it out.

    `kick(server, reason)` ends a server's sessions; `finish_reload()` and `stop_control()` are awaited.
    """

    def __init__(
        self,
        *,
        dispatcher: Dispatcher,
        sessions: ConnectionHandler,
        frontends: Frontends,
        relays: RelayService,
        events: Events,
        clock: Callable[[], float],
        kick: Callable[[ServerId, CloseReason], object],
        finish_reload: Callable[[], Awaitable[None]],
        stop_control: Callable[[], Awaitable[None]],
    ) -> None:
        self._dispatcher = dispatcher
        self._sessions = sessions
        self._frontends = frontends
        self._relays = relays
        self._events = events
        self._clock = clock
        self._kick = kick
        self._finish_reload = finish_reload
        self._stop_control = stop_control
        self._drain_s: float | None = None
        self._ending = asyncio.Event()
        self._end_now = asyncio.Event()
        self.retiring = False

    @property
    def stopping(self) -> bool:
        """Whether the service is being stopped: not where another router comes at once."""
        return self._ending.is_set() and not self.retiring

    @property
    def ending(self) -> bool:
        """Whether this router is about to end."""
        return self._ending.is_set()

    # ---- what is asked for -------------------------------------------------------------------------

    def stop(self, drain_s: float) -> None:
        """Drain for so long and end; asked a second time, end now."""
        if self._drain_s is not None or not drain_s:
            self._end_now.set()
        self._drain_s = drain_s
        self._ending.set()

    def retire(self) -> None:
        """Make way for the next router."""
        self.retiring = True
        self._ending.set()

    # ---- what is done ------------------------------------------------------------------------------

    async def until_ended(self) -> None:
        """Wait until an end is asked for, and carry it out."""
        await self._ending.wait()
        await (self._retire() if self.retiring else self._drain())

    async def _drain(self) -> None:
        """Accept no more; let sessions end by themselves for a while, then end them, each with its record."""
        self._frontends.stop_accepting()
        drain_s = self._drain_s or 0.0
        self._events.info("router_stopping", sessions=len(self._dispatcher.ledger), drain_s=drain_s)
        await self._until_empty(drain_s, give_up=self._end_now)
        # First those who wait: the slots that become free in a moment are nobody's any more.
        self._sessions.give_up()
        for server in self._dispatcher.ledger.servers():
            self._kick(server, CloseReason.SHUTDOWN)
        await self._last_records()
        await self._close_listeners()

    async def _last_records(self) -> None:
        """Wait until every session that has been ended has its record, as long as they keep coming."""
        until_at = self._clock() + _LAST_RECORDS_S
        left, changed_at = len(self._dispatcher.ledger), self._clock()
        while left and self._clock() < min(until_at, changed_at + _NO_RECORD_S):
            await self._until_empty(0.1, give_up=asyncio.Event())
            if (now_left := len(self._dispatcher.ledger)) != left:
                left, changed_at = now_left, self._clock()
        if left:
            detail = "they have ended, but their relays have not said how"
            self._events.error("records_missing", sessions=left, detail=detail)

    async def _retire(self) -> None:
        """Finish what is half open, leave the sessions with their relays."""
        self._frontends.stop_accepting()
        self._events.info("router_retiring", sessions=len(self._dispatcher.ledger))
        await self._finish_reload()
        await self._sessions.wait_idle(timeout_s=_RETIRE_S)
        await self._close_listeners()

    async def _close_listeners(self) -> None:
        await self._stop_control()
        await self._frontends.close()

    async def _until_empty(self, timeout_s: float, *, give_up: asyncio.Event) -> None:
        deadline_at = self._clock() + timeout_s
        while len(self._dispatcher.ledger) and (left_s := deadline_at - self._clock()) > 0:
            try:
                async with asyncio.timeout(min(left_s, 0.1)):
                    await give_up.wait()
            except TimeoutError:
                continue
            return

    async def until_sent(self) -> None:
        """Wait until the relays have the last handshakes' sessions: those would end with this process."""
        deadline_at = self._clock() + _SEND_S
        while self._relays.pending and self._clock() < deadline_at:  # noqa: ASYNC110
            # Polled: it must be true at the very moment of closing, not when an event was set.
            await asyncio.sleep(_SEND_POLL_S)
