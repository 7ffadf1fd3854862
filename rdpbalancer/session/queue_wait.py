"""Waiting for a slot in a service's queue."""

import asyncio
from collections.abc import Callable

from rdpbalancer.core.dispatch import Dispatcher
from rdpbalancer.core.ledger import ServerSlot
from rdpbalancer.core.queue import QueuedClient
from rdpbalancer.errors import NoServerError, RdpBalancerError
from rdpbalancer.model import ServerId
from rdpbalancer.session.connection import Connection


class QueueWait:
    """One connection's wait in its service's queue."""

    def __init__(self, conn: Connection, dispatcher: Dispatcher, clock: Callable[[], float]) -> None:
        self._conn = conn
        self._dispatcher = dispatcher
        self._clock = clock
        self._granted: asyncio.Future[ServerSlot | None] = asyncio.get_running_loop().create_future()

    async def wait(self, server: ServerId | None) -> ServerSlot | None:
        """Wait for a slot on `server` (None: on any). None: the farm has changed, look again.

        Raises NoServerError when `timeouts.queue` has run out (in all). Whoever notices that the client has
        left raises it where this waits (`StepRunner.throw`).
        """
        conn, loop = self._conn, asyncio.get_running_loop()
        began_at = self._clock()
        if conn.queue_until_at is None:
            conn.queue_until_at = began_at + conn.service.timeouts.queue_s
        since = conn.queue_until_at - conn.service.timeouts.queue_s
        waiter = self._dispatcher.queues.join(
            conn.service.name,
            server,
            self._grant,
            ticket=conn.ticket,
            excluded=conn.excluded,
            client=QueuedClient(str(conn.peer), conn.user, since),
        )
        conn.ticket = waiter.ticket
        too_late = NoServerError("queue-timeout", "no place came free")
        timer = loop.call_at(conn.queue_until_at, self._fail, too_late)
        try:
            return await self._granted
        except BaseException:
            self._dispatcher.queues.leave(conn.service.name, waiter)
            if self._granted.done() and not self._granted.cancelled() and not self._granted.exception():
                self._give_back(self._granted.result())  # granted in the very moment of a cancellation
            raise
        finally:
            timer.cancel()
            conn.queued_s += self._clock() - began_at

    def _grant(self, slot: ServerSlot | None) -> None:
        if self._granted.done():
            self._give_back(slot)
        else:
            self._granted.set_result(slot)

    def _give_back(self, slot: ServerSlot | None) -> None:
        if slot is not None:
            self._dispatcher.release(slot, now=self._clock())

    def _fail(self, error: RdpBalancerError) -> None:
        if not self._granted.done():
            self._granted.set_exception(error)
