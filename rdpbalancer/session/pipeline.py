"""One accepted socket to one session: the whole way of a connection.

accept -> opening -> placement -> hand-over, a module each. What happens afterwards is the relay's, until the
session's end comes back and is accounted for.
"""

import asyncio
import socket
import time
from collections.abc import Callable
from typing import Any

from rdpbalancer.core.admission import Admission, Refusal
from rdpbalancer.core.dispatch import Dispatcher
from rdpbalancer.core.farm import VirtualService
from rdpbalancer.errors import NoServerError, RdpBalancerError, ServerError
from rdpbalancer.model import Endpoint, ServerId
from rdpbalancer.net.poller import Poller, StepRunner
from rdpbalancer.session.client_watch import ClientWatch
from rdpbalancer.session.collisions import CollisionReports
from rdpbalancer.session.connection import Connection, RejectedError, close, plain_address, within
from rdpbalancer.session.frontends import FRONTENDS
from rdpbalancer.session.handover import HandOver, Relays
from rdpbalancer.session.opening import Opening
from rdpbalancer.session.placement import Placement
from rdpbalancer.telemetry.account import Account
from rdpbalancer.telemetry.events import Events
from rdpbalancer.telemetry.metrics import Metrics


class ConnectionHandler:
    """Takes accepted sockets and makes sessions of them. One per router.

    `dial_failed`, `dialled`: see `session.placement`.
    """

    def __init__(
        self,
        *,
        dispatcher: Dispatcher,
        admission: Admission,
        relays: Relays,
        metrics: Metrics,
        account: Account,
        events: Events,
        dial_failed: Callable[[ServerId, ServerError], None],
        dialled: Callable[[ServerId, str], None],
        # Not the loop's own clock, which uvloop counts in whole milliseconds; it has the same beginning.
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._admission = admission
        self._account = account
        self._events = events
        self._clock = clock
        self._poller = Poller()
        self._watch = ClientWatch(self._poller)
        self._opening = Opening(
            dispatcher=dispatcher,
            poller=self._poller,
            metrics=metrics,
            collisions=CollisionReports(
                dispatcher=dispatcher, metrics=metrics, events=events, account=account
            ),
            identify=self._identify,
            clock=clock,
        )
        self._placement = Placement(
            dispatcher=dispatcher,
            poller=self._poller,
            watch=self._watch,
            metrics=metrics,
            account=account,
            dial_failed=dial_failed,
            dialled=dialled,
            clock=clock,
        )
        self._handover = HandOver(
            dispatcher=dispatcher,
            admission=admission,
            relays=relays,
            watch=self._watch,
            metrics=metrics,
            account=account,
            clock=clock,
        )
        self._in_progress: set[StepRunner] = set()
        self._idle = asyncio.Event()

    # ---- accept ------------------------------------------------------------------------------------

    def connected(self, service: VirtualService, client: socket.socket, address: Any) -> None:
        """Take an admission slot for a new connection, before a byte is read, or close it."""
        self._account.connected(service.name)
        slot = self._admission.enter(service)
        if isinstance(slot, Refusal):
            self._refuse(service, client, slot, plain_address(address[0]))
            return
        peer = Endpoint(plain_address(address[0]), address[1])
        conn = Connection(service, client, peer, slot, self._clock(), FRONTENDS[service.mode])
        proxied = bool(service.accept_proxy) and within(peer.host, service.accept_proxy)
        if not proxied and (refusal := self._identify(conn)):
            self._admission.release(slot)
            self._refuse(service, client, refusal, peer.host)
            return
        steps = StepRunner(self._handle(conn, proxied=proxied), on_done=self._done)
        if not steps.done:
            conn.steps = steps
            self._in_progress.add(steps)

    def _identify(self, conn: Connection) -> Refusal | None:
        return self._admission.identify(conn.admission_slot, conn.service, conn.peer.host, now=self._clock())

    def _refuse(self, service: VirtualService, client: socket.socket, refusal: Refusal, host: str) -> None:
        client.close()
        self._account.rejected(service.name, refusal.value, source=host)

    # ---- the pipeline ------------------------------------------------------------------------------

    async def _handle(self, conn: Connection, *, proxied: bool) -> None:
        """Make a session of one connection, and give everything back if it becomes none."""
        farewell = b""
        try:
            await self._opening.read(conn, proxied=proxied)
            reply = await self._placement.connect(conn)
            await self._handover.hand_over(conn, reply)
        except (NoServerError, ServerError) as error:
            farewell = conn.frontend.refusal
            self._failed(conn, error)
        except RejectedError as refusal:
            farewell = refusal.packet
            self._failed(conn, refusal)
        except RdpBalancerError as error:
            self._failed(conn, error)
        except asyncio.CancelledError:
            farewell = conn.frontend.refusal
            self._failed(conn, RdpBalancerError("shutdown", "the service is being stopped"))
            raise
        except Exception as error:  # noqa: BLE001 (what a stranger sends may end its own connection only)
            about = {"service": conn.service.name, "client": str(conn.peer)}
            self._events.exception("internal_error", error, **about)
            self._failed(conn, RdpBalancerError("internal", "an error of the balancer; please report it"))
        finally:
            self._watch.done(conn)
            if conn.owns_socket:
                self._admission.release(conn.admission_slot)
                close(conn.client, farewell)

    def _failed(self, conn: Connection, error: RdpBalancerError) -> None:
        self._account.failed(conn.service.name, error, client=str(conn.peer), user=conn.user)

    # ---- the end -----------------------------------------------------------------------------------

    def _done(self, steps: StepRunner) -> None:
        self._in_progress.discard(steps)
        if not self._in_progress:
            self._idle.set()

    async def wait_idle(self, *, timeout_s: float) -> None:
        """Wait until no connection is in progress any more; end those that still are after `timeout_s`."""
        try:
            async with asyncio.timeout(timeout_s):
                while self._in_progress:
                    self._idle.clear()
                    await self._idle.wait()
        except TimeoutError:
            self.give_up()

    def give_up(self) -> None:
        """End all that are still in progress, each with its protocol's refusal."""
        for steps in list(self._in_progress):
            steps.cancel()

    def close(self) -> None:
        """End everything."""
        self.give_up()
        self._watch.close()
        self._poller.close()
