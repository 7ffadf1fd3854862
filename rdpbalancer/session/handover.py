"""Handing over: the server's reply to the client, the binding confirmed, both sockets to a relay."""

import itertools
import secrets
import socket
import time
from collections.abc import Callable
from typing import Protocol

from rdpbalancer.core.admission import Admission
from rdpbalancer.core.dispatch import Dispatcher
from rdpbalancer.errors import ChannelError, ClientError, RdpBalancerError
from rdpbalancer.model import Method, Reason, SessionFacts
from rdpbalancer.session.client_watch import ClientWatch
from rdpbalancer.session.connection import Connection, ServerReply, send_now
from rdpbalancer.telemetry.account import Account
from rdpbalancer.telemetry.metrics import Metrics
from rdpbalancer.wire.token import describe, kind


class Relays(Protocol):
    """Whoever moves the bytes: the relay processes, or this process itself."""

    async def choose(self) -> int:
        """Return the process id of the relay that gets the next session; wait while there is none.

        Raises ChannelError: there was none for too long.
        """

    def adopt(
        self,
        relay: int,
        facts: SessionFacts,
        sockets: tuple[socket.socket, socket.socket],
        *,
        first: tuple[bytes, bytes],
        idle_s: float,
    ) -> None:
        """Give a session to the relay that was just chosen. The sockets are the relay's from then on.

        `first`: bytes that were read and are still to be sent, to the server and to the client.
        """


class HandOver:
    """Makes sessions of connections whose server has replied."""

    def __init__(
        self,
        *,
        dispatcher: Dispatcher,
        admission: Admission,
        relays: Relays,
        watch: ClientWatch,
        metrics: Metrics,
        account: Account,
        clock: Callable[[], float],
    ) -> None:
        self._dispatcher = dispatcher
        self._admission = admission
        self._relays = relays
        self._watch = watch
        self._metrics = metrics
        self._account = account
        self._clock = clock
        # Ids stay unique over restarts of the router, whose predecessor's sessions live on.
        prefix = secrets.token_hex(4)
        self._ids = (f"{prefix}-{number:x}" for number in itertools.count(1))

    async def hand_over(self, conn: Connection, reply: ServerReply) -> None:
        """Pass the server's reply to the client, confirm the binding, and give both sockets to a relay.

        Raises ClientError: the client has left; RdpBalancerError: there is no relay.
        """
        try:
            rest = send_now(conn.client, reply.data)
            now = self._clock()
            self._bind(conn, reply, now)
            facts = self._facts(conn, reply, now)
            relay = await self._relays.choose()
            # From here on nothing waits: the session's end cannot be heard of before it is in the ledger.
            self._watch.done(conn)
            self._dispatcher.open(reply.slot, facts, relay=relay, admission_slot=conn.admission_slot)
            self._admission.opened(conn.admission_slot)
            self._account.opened(facts)
            conn.owns_socket = False
            idle_s = conn.service.timeouts.idle_s
            self._relays.adopt(relay, facts, (conn.client, reply.sock), first=(b"", rest), idle_s=idle_s)
        except ChannelError as error:
            raise RdpBalancerError("no-relay", f"nobody can hold the session: {error}") from error
        except OSError as error:
            raise ClientError("reset", f"the client has left before its server's answer: {error}") from error
        finally:
            if conn.owns_socket:
                reply.sock.close()
                self._dispatcher.release(reply.slot, now=self._clock())

    def _bind(self, conn: Connection, reply: ServerReply, now: float) -> None:
        bindings = self._dispatcher.bindings
        if not conn.frontend.binds(reply.confirm):
            bindings.drop_claim(reply.slot, now=now)
        elif not bindings.confirm(reply.slot, now=now):
            self._metrics.shares_exceeded.labels(reply.slot.server.service).inc()

    def _facts(self, conn: Connection, reply: ServerReply, now: float) -> SessionFacts:
        request, confirm, route = conn.request, reply.confirm, reply.route
        method = Method.ROUTING_TOKEN if route.reason is Reason.TOKEN else None
        key = reply.slot.key
        return SessionFacts(
            id=next(self._ids),
            service=conn.service.name,
            server=route.server.name,
            client=str(conn.peer),
            source=conn.peer.host,
            user=conn.user,
            method=key.method if key is not None else method,
            key=key.value if key is not None else None,
            reason=route.reason,
            attempts=len(conn.excluded) + 1,
            token=describe(request.token) if request and request.token else None,
            requested_protocols=request.requested_protocols if request else None,
            selected_protocol=confirm.selected_protocol if confirm else None,
            negotiation_failure=confirm.failure if confirm else None,
            correlation_id=request.correlation_id.hex() if request and request.correlation_id else None,
            preconnection=request.preconnection.text if request and request.preconnection else None,
            handshake_ms=(conn.parsed_at - conn.began_at) * 1000,
            queue_ms=conn.queued_s * 1000,
            connect_ms=(now - conn.dialled_at) * 1000,
            started_at=time.time(),
            token_kind=kind(request.token) if request and request.token else None,
        )
