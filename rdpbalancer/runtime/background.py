"""What a router does beside its connections: bindings that expire, the status line, the loop's lag."""

import asyncio
from collections.abc import Callable

from rdpbalancer.core.dispatch import Dispatcher
from rdpbalancer.tasks import cancel_and_wait, spawn
from rdpbalancer.telemetry.account import Account
from rdpbalancer.telemetry.log_watch import LogWatch
from rdpbalancer.telemetry.metrics import Metrics

_LAG_INTERVAL_S = 0.5
_STATUS_INTERVAL_S = 10.0
_EXPIRE_INTERVAL_S = 1.0
# Between slices of what expires, each of about 2 ms: half of the loop stays with the users.
_EXPIRE_PAUSE_S = 0.002


class Background:
    """Three endless tasks. `send_status()` says the service manager's status line."""

    def __init__(
        self,
        *,
        dispatcher: Dispatcher,
        account: Account,
        metrics: Metrics,
        log_watch: LogWatch,
        clock: Callable[[], float],
        send_status: Callable[[], None],
    ) -> None:
        self._dispatcher = dispatcher
        self._account = account
        self._metrics = metrics
        self._log_watch = log_watch
        self._clock = clock
        self._send_status = send_status
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin."""
        self._tasks = [
            spawn(self._expire(), name="expire bindings"),
            spawn(self._measure_lag(), name="event loop lag"),
            spawn(self._report_status(), name="status"),
        ]

    async def stop(self) -> None:
        """End, with the sums that have not been reported."""
        await cancel_and_wait(*self._tasks)
        self._account.tell_sums(at_all=True)

    async def _expire(self) -> None:
        while True:
            await asyncio.sleep(_EXPIRE_INTERVAL_S)
            bindings = self._dispatcher.bindings
            for store in [bindings.of(name) for name in self._dispatcher.farm.services]:
                store.expire(now=self._clock())
                while store.more_to_drop(now=self._clock()):
                    await asyncio.sleep(_EXPIRE_PAUSE_S)
                    store.expire(now=self._clock())
            while bindings.unpin_some(now=self._clock()):  # noqa: ASYNC110 (a pause between slices)
                await asyncio.sleep(_EXPIRE_PAUSE_S)

    async def _report_status(self) -> None:
        while True:
            await asyncio.sleep(_STATUS_INTERVAL_S)
            self._send_status()
            self._forget_removed()

    def _forget_removed(self) -> None:
        """Let go of the counters of what a reload has removed, once its last session has ended."""
        farm = self._dispatcher.farm
        servers = {*farm.servers(), *self._dispatcher.ledger.servers()}
        self._account.keep_only({*farm.services, *(server.service for server in servers)}, servers)

    async def _measure_lag(self) -> None:
        while True:
            due_at = self._clock() + _LAG_INTERVAL_S
            await asyncio.sleep(_LAG_INTERVAL_S)
            self._metrics.loop_lag.observe(max(0.0, self._clock() - due_at))
            self._metrics.log_lines_lost.inc(self._log_watch.look())
            self._account.tell_sums()
