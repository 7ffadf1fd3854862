"""One accepted socket to one session: the whole way of a connection.

accept -> parse -> route -> connect -> confirm and hand over. What happens afterwards is the relay's, until
the session's end comes back and is accounted for.
"""

import asyncio
import functools
import itertools
import secrets
import socket
import time
from collections.abc import Callable
from typing import Any, Protocol

from rdpbalancer.core.admission import Admission, Refusal
from rdpbalancer.core.dispatch import Dispatcher, Placed
from rdpbalancer.core.farm import VirtualService
from rdpbalancer.core.ledger import ServerSlot
from rdpbalancer.core.redirection import MAX_ASKED, SEARCH_S
from rdpbalancer.core.route import Enqueue, Reject, Route
from rdpbalancer.errors import (
    ChannelError,
    ClientError,
    NoServerError,
    RdpBalancerError,
    ServerError,
)
from rdpbalancer.model import Endpoint, Key, Method, Mode, Reason, Security, ServerId, SessionFacts
from rdpbalancer.net import dial
from rdpbalancer.net.handshake import Reader
from rdpbalancer.net.poller import Poller, StepRunner, hung_up
from rdpbalancer.session.agreement_wait import agreed
from rdpbalancer.session.connection import (
    Connection,
    RejectedError,
    ServerReply,
    close,
    plain_address,
    send_now,
    within,
)
from rdpbalancer.session.queue_wait import QueueWait
from rdpbalancer.session.slow import SlowConnections
from rdpbalancer.telemetry import logs
from rdpbalancer.telemetry.account import Account
from rdpbalancer.telemetry.events import Events
from rdpbalancer.telemetry.metrics import Metrics
from rdpbalancer.wire.confirm import DISCONNECT, NegotiationFailure, build_failure
from rdpbalancer.wire.confirm import SecurityProtocol as Offer
from rdpbalancer.wire.proxy import build_proxy
from rdpbalancer.wire.request import ConnectionRequest
from rdpbalancer.wire.token import decode_msts, describe, kind, msts_number

_NLA = Offer.HYBRID | Offer.HYBRID_EX | Offer.RDSTLS | Offer.RDSAAD
_STRONG_ENOUGH = {Security.TLS: Offer.SSL | _NLA, Security.NLA: _NLA}
_TOO_WEAK = {
    Security.TLS: NegotiationFailure.SSL_REQUIRED,
    Security.NLA: NegotiationFailure.HYBRID_REQUIRED,
}

_ONE_ADDRESS_CURE = (
    "probably a gateway (Guacamole, a web client) or NAT; let it send user names as cookies (Guacamole:"
    " load-balance-info), or the clients' addresses (accept_proxy), or set on_collision: next-method"
)
_ONE_COOKIE = (
    "many addresses use one cookie at once, and so all go to one server: probably a domain name that mstsc"
    " cut short; let users log in as user@domain, or set on_collision: next-method"
)
_UNREAD_COOKIE_CURE = "these clients send user names: put rdp-cookie before source-ip in persistence.methods"


class Relays(Protocol):
    """Whoever moves the bytes: the relay processes, or this process itself."""

    async def adopt(
        self,
        facts: SessionFacts,
        sockets: tuple[socket.socket, socket.socket],
        *,
        first: tuple[bytes, bytes],
        idle_s: float,
        before: Callable[[int], None],
    ) -> int:
        """Take a session over; see `relay.pool`."""


class ConnectionHandler:
    """Leads connections to their servers. One per router.

    `dial_failed(server, error)` is told of every dial that failed, as health checks are, and
    `dialled(server, address)` of each to which another address than the server's first has answered.
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
    ) -> None:
        self._dispatcher = dispatcher
        self._admission = admission
        self._relays = relays
        self._metrics = metrics
        self._account = account
        self._events = events
        self._dial_failed = dial_failed
        self._dialled = dialled
        self._log = logs.get()
        # Not the loop's own clock, which uvloop counts in whole milliseconds; it has the same beginning.
        self._clock = time.monotonic
        self._waits = Poller()
        self._slow = SlowConnections(self._watch_slow)
        self._leading: set[StepRunner] = set()
        self._settled = asyncio.Event()
        # Ids stay unique over restarts of the router, whose predecessor's sessions live on.
        prefix = secrets.token_hex(4)
        self._ids = (f"{prefix}-{number:x}" for number in itertools.count(1))

    # ---- accept ------------------------------------------------------------------------------------

    def connected(self, service: VirtualService, client: socket.socket, address: Any) -> None:
        """Take a place for a new connection, before a byte is read, or close it."""
        self._account.connected(service.name)
        place = self._admission.enter(service)
        if isinstance(place, Refusal):
            self._reject(service, client, place, plain_address(address[0]))
            return
        peer = Endpoint(plain_address(address[0]), address[1])
        conn = Connection(service, client, peer, place, self._clock())
        proxied = bool(service.accept_proxy) and within(peer.host, service.accept_proxy)
        if not proxied and (refusal := self._identify(conn)):
            self._admission.release(place)
            self._reject(service, client, refusal, peer.host)
            return
        leading = StepRunner(self._lead(conn, proxied=proxied), on_done=self._led)
        if not leading.done:
            conn.leading = leading
            self._leading.add(leading)

    def _led(self, leading: StepRunner) -> None:
        self._leading.discard(leading)
        if not self._leading:
            self._settled.set()

    async def settled(self, *, timeout_s: float) -> None:
        """Wait until no connection is on its way any more; end those that still are after `timeout_s`."""
        try:
            async with asyncio.timeout(timeout_s):
                while self._leading:
                    self._settled.clear()
                    await self._settled.wait()
        except TimeoutError:
            self.give_up()

    def give_up(self) -> None:
        """End all that are still on their way, each with a goodbye."""
        for leading in list(self._leading):
            leading.cancel()

    def close(self) -> None:
        """Wait for nothing any more."""
        self.give_up()
        self._slow.close()
        self._waits.close()

    def _identify(self, conn: Connection) -> Refusal | None:
        return self._admission.identify(conn.admission_slot, conn.service, conn.peer.host, now=self._clock())

    def _reject(self, service: VirtualService, client: socket.socket, refusal: Refusal, host: str) -> None:
        client.close()
        self._account.rejected(service.name, refusal.value, source=host)

    # ---- the way -----------------------------------------------------------------------------------

    async def _lead(self, conn: Connection, *, proxied: bool) -> None:
        """Lead one connection to its server, and give everything back if it does not get there."""
        goodbye = b""
        try:
            await self._receive(conn, proxied=proxied)
            answer = await self._connect(conn)
            await self._hand_over(conn, answer)
        except (NoServerError, ServerError) as error:
            # An X.224 Disconnect Request has clients show an error at once; a refusal would make them retry.
            goodbye = DISCONNECT if conn.service.mode is Mode.RDP else b""
            self._failed(conn, error)
        except RejectedError as refusal:
            goodbye = refusal.goodbye
            self._failed(conn, refusal)
        except RdpBalancerError as error:
            self._failed(conn, error)
        except asyncio.CancelledError:
            goodbye = DISCONNECT if conn.service.mode is Mode.RDP else b""
            self._failed(conn, RdpBalancerError("shutdown", "the service is being stopped"))
            raise
        except Exception as error:  # noqa: BLE001 (what a stranger sends may end its own connection only)
            about = {"service": conn.service.name, "client": str(conn.peer)}
            self._events.exception("internal_error", error, **about)
            self._failed(conn, RdpBalancerError("internal", "an error of the balancer; please report it"))
        finally:
            self._slow.discard(conn)
            if conn.watch is not None:
                conn.watch.end()
            if conn.owned:
                self._admission.release(conn.admission_slot)
                close(conn.client, goodbye)

    async def _receive(self, conn: Connection, *, proxied: bool) -> None:
        """Read what the client opens with, and refuse what is refused on sight."""
        service = conn.service
        deadline_at = conn.began_at + service.timeouts.handshake_s
        with Reader(conn.client, self._waits, deadline_at=deadline_at) as reader:
            if proxied:
                header = await reader.proxy_header()
                conn.peer = header.source or conn.peer
                if refusal := self._identify(conn):
                    raise ClientError(refusal.value, f"{conn.peer.host} is over a limit or denied")
            if service.mode is Mode.RDP:
                opening = await reader.opening()
                conn.data, conn.request = opening.data, opening.request
            else:
                conn.data = reader.rest()
            conn.watch = reader.watch_kept()
        if conn.request is not None:
            self._refuse_weak(conn, conn.request)
            self._read_token(conn, conn.request)
        self._derive_key(conn)
        conn.parsed_at = self._clock()

    def _refuse_weak(self, conn: Connection, request: ConnectionRequest) -> None:
        required = conn.service.require_security
        if required is Security.ANY or (request.requested_protocols or 0) & _STRONG_ENOUGH[required]:
            return
        detail = f"the client does not offer the {required.value.upper()} that require_security asks for"
        raise RejectedError("security", detail, build_failure(_TOO_WEAK[required]))

    def _read_token(self, conn: Connection, request: ConnectionRequest) -> None:
        if request.token is not None and Method.ROUTING_TOKEN in conn.service.persistence.methods:
            address = decode_msts(request.token)
            conn.token = address if address is not None else msts_number(request.token)

    def _derive_key(self, conn: Connection) -> None:
        service = self._current(conn)
        derived = self._dispatcher.bindings.derive(service, cookie=conn.user, source=conn.peer.host)
        conn.key = derived.key
        if derived.ambiguous:
            self._metrics.ambiguous_cookies.labels(service.name).inc()
        for suspect in (*derived.collided, derived.key):
            if suspect is not None and self._dispatcher.bindings.collides(service, suspect):
                self._tell_collision(conn, suspect)

    def _current(self, conn: Connection) -> VirtualService:
        """Return the connection's service as it is configured now. Raises NoServerError: it is gone.

        A reload may have changed it while the connection was read from or waited; deciding with servers that
        are configured no more would end in nothing.
        """
        service = self._dispatcher.farm.services.get(conn.service.name)
        if service is None:
            raise NoServerError("removed", f"the service {conn.service.name} is not configured any more")
        conn.service = service
        return service

    def _tell_collision(self, conn: Connection, key: Key) -> None:
        if not self._dispatcher.bindings.first_collision(conn.service.name, key):
            return
        service = conn.service
        if key.method is Method.RDP_COOKIE:
            self._metrics.collisions.labels(service.name).inc()
            self._events.warning(
                "cookie_collision",
                service=service.name,
                user=self._account.users(key.value),
                detail=_ONE_COOKIE,
            )
            return
        self._metrics.address_collisions.labels(service.name).inc()
        live = self._dispatcher.ledger.live_of(service.name, key)
        self._events.warning(
            "address_collision",
            service=service.name,
            source=key.value,
            sessions=live,
            detail=f"{live} sessions at once from {key.value} are told apart by this address alone, so all go"
            f" to one server: {_cure(conn)}",
        )

    # ---- a client that leaves ----------------------------------------------------------------------

    def _watch_client(self, conn: Connection) -> None:
        """Notice from now on when the client leaves, whatever its connection waits for.

        Raises ClientError: it has left already.
        """
        self._slow.discard(conn)
        watch = conn.watch
        if watch is None:
            try:
                watch = conn.watch = self._waits.watch(conn.client, only_hang_up=True)
            except OSError as error:
                raise RdpBalancerError("internal", f"a client cannot be watched: {error}") from error
            watch.gone = hung_up(conn.client)
        watch.on_hang_up = functools.partial(self._client_left, conn)
        if watch.gone is not None and _has_left(conn, watch.gone):
            raise _gave_up(conn)

    def _watch_slow(self, conn: Connection) -> None:
        try:
            self._watch_client(conn)
        except RdpBalancerError as error:
            if conn.leading is not None:
                conn.leading.throw(error)

    def _client_left(self, conn: Connection, gone: bool) -> None:  # noqa: FBT001 (as a watch tells it)
        """End a connection whose client has left: nothing of it stays at a server, or half open."""
        if _has_left(conn, gone) and conn.leading is not None:
            conn.leading.throw(_gave_up(conn))

    # ---- connect -----------------------------------------------------------------------------------

    async def _connect(self, conn: Connection) -> ServerReply:
        """Dial candidates until one has answered.

        Raises NoServerError, the last ServerError, or RefusedError: nobody takes the routing token.
        """
        if conn.watch is not None:
            self._watch_client(conn)
        else:
            self._slow.add(conn)
        while True:
            placed = await self._choose(conn)
            slot = placed.slot
            try:
                if placed.answer is not None and not await agreed(placed.answer):
                    self._dispatcher.release(slot, now=self._clock())
                    self._current(conn)
                    continue
                conn.dialled_at = self._clock()
                return await self._dial(conn, slot, placed.route)
            except ServerError as error:
                if not self._try_another(conn, slot, error):
                    if conn.not_theirs == len(conn.excluded):
                        raise _token_unknown(conn) from error
                    raise
                self._current(conn)
            except BaseException:
                self._dispatcher.release(slot, now=self._clock())
                raise

    async def _choose(self, conn: Connection) -> Placed:
        """Return a reserved slot, after waiting for one if need be."""
        while True:
            decision, token_missed = self._dispatcher.place(
                conn.service,
                source=conn.peer.host,
                token=conn.token,
                key=conn.key,
                excluded=conn.excluded,
                now=self._clock(),
            )
            if token_missed and not conn.excluded:
                self._metrics.tokens_missed.labels(conn.service.name).inc()
            match decision:
                case Placed():
                    return decision
                case Enqueue():
                    if (granted := await self._wait(conn, decision)) is not None:
                        return granted
                case Reject():
                    if conn.excluded and conn.not_theirs == len(conn.excluded):
                        raise _token_unknown(conn)
                    raise NoServerError(decision.why, f"no real server of {conn.service.name} can be used")

    async def _wait(self, conn: Connection, wanted: Enqueue) -> Placed | None:
        """Wait in the queue; None: ask again. Raises NoServerError, ClientError."""
        if conn.half_closed:
            raise _gave_up(conn)
        conn.queueing = True
        self._watch_client(conn)
        slot = await QueueWait(conn, self._dispatcher, self._clock).come(wanted.server)
        conn.queueing = False
        try:
            self._current(conn)
        except NoServerError:
            if slot is not None:
                self._dispatcher.release(slot, now=self._clock())
            raise
        if slot is None:
            return None
        return self._dispatcher.place_granted(
            conn.service,
            slot,
            waited_for=wanted,
            source=conn.peer.host,
            token=conn.token,
            key=conn.key,
            excluded=conn.excluded,
            now=self._clock(),
        )

    async def _dial(self, conn: Connection, slot: ServerSlot, route: Route) -> ServerReply:
        service, timeouts = conn.service, conn.service.timeouts
        server, status = (
            service.server(route.server.name),
            self._dispatcher.servers.statuses.get(route.server),
        )
        if server is None or status is None:
            raise ServerError("removed", f"{route.server} is not configured any more")
        try:
            upstream = await dial.connect(
                self._waits,
                status.addresses,
                server.address.port,
                deadline_at=conn.dialled_at + timeouts.connect_s,
            )
        except ServerError as error:
            # Only the dial itself speaks about the server's health. What it does after a stranger's request
            # does not: three odd requests would otherwise take a server out of the farm.
            self._dial_failed(route.server, error)
            raise
        if upstream.address != status.addresses[0]:
            self._dialled(route.server, upstream.address)
        try:
            deadline_at = self._clock() + timeouts.confirm_s
            await upstream.send(self._proxy_header(conn) + conn.data, deadline_at=deadline_at)
            if service.mode is Mode.TCP:
                return ServerReply(slot, route, upstream.given_away())
            data, confirm = await upstream.receive_reply(deadline_at=deadline_at)
        except BaseException:
            upstream.close()
            raise
        return ServerReply(slot, route, upstream.given_away(), data, confirm)

    def _proxy_header(self, conn: Connection) -> bytes:
        if not conn.service.send_proxy:
            return b""
        host, port = conn.client.getsockname()[:2]
        return build_proxy(conn.service.send_proxy, conn.peer, Endpoint(plain_address(host), port))

    def _goes_on(self, conn: Connection) -> bool:
        """Whether another server is tried. Raises ClientError: the client has left.

        One that closes on a routing token it has not made is no failure: that is how its maker is found.
        """
        if not self._may_try_another(conn):
            return False
        self._watch_client(conn)
        # Who has closed its half may have left: one server's time is what such a client is given.
        return not conn.half_closed

    def _may_try_another(self, conn: Connection) -> bool:
        excluded, now = len(conn.excluded), self._clock()
        if isinstance(conn.token, int) and now >= conn.began_at + SEARCH_S:
            return False
        if excluded <= conn.service.redispatch:
            return True
        searches = isinstance(conn.token, int) and excluded < MAX_ASKED
        return searches and self._dispatcher.may_search(conn.service.name, conn.peer.host, now=now)

    def _try_another(self, conn: Connection, slot: ServerSlot, error: ServerError) -> bool:
        """Note that a server has failed the connection; return whether another one is to be tried."""
        server = slot.server
        conn.excluded |= {server}
        self._dispatcher.release(slot, now=self._clock())
        if isinstance(conn.token, int) and error.code in ("closed", "reset"):
            conn.not_theirs += 1
            self._metrics.tokens_searched.labels(server.service).inc()
            self._log.debug("token_not_theirs", service=server.service, server=server.name)
            return self._goes_on(conn)
        self._account.server_failed(server, error, source=conn.peer.host, user=conn.user)
        another = self._goes_on(conn)
        if another:
            self._metrics.redispatches.labels(*server).inc()
        return another

    # ---- confirm and hand over ---------------------------------------------------------------------

    async def _hand_over(self, conn: Connection, answer: ServerReply) -> None:
        """Pass the server's answer to the client, confirm the binding, and give both sockets to a relay."""
        slot, now = answer.slot, self._clock()
        try:
            rest = send_now(conn.client, answer.data)
            if conn.service.mode is Mode.TCP or answer.confirm is not None:
                self._confirm(slot, now)
            else:
                self._dispatcher.bindings.drop_claim(slot, now=now)
            facts = self._facts(conn, answer, now)

            def chosen(relay: int) -> None:
                if conn.watch is not None:
                    conn.watch.end()
                self._dispatcher.open(slot, facts, relay=relay, admission_slot=conn.admission_slot)
                self._admission.opened(conn.admission_slot)
                self._account.opened(facts)
                conn.owned = False

            idle_s = conn.service.timeouts.idle_s
            sockets = (conn.client, answer.sock)
            await self._relays.adopt(facts, sockets, first=(b"", rest), idle_s=idle_s, before=chosen)
        except ChannelError as error:
            raise RdpBalancerError("no-relay", f"nobody can hold the session: {error}") from error
        except OSError as error:
            raise ClientError("reset", f"the client has left before its server's answer: {error}") from error
        finally:
            if conn.owned:
                answer.sock.close()
                self._dispatcher.release(slot, now=self._clock())

    def _confirm(self, slot: ServerSlot, now: float) -> None:
        if not self._dispatcher.bindings.confirm(slot, now=now):
            self._metrics.shares_exceeded.labels(slot.server.service).inc()

    def _facts(self, conn: Connection, answer: ServerReply, now: float) -> SessionFacts:
        request, confirm, route = conn.request, answer.confirm, answer.route
        method = Method.ROUTING_TOKEN if route.reason is Reason.TOKEN else None
        key = answer.slot.key
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

    def _failed(self, conn: Connection, error: RdpBalancerError) -> None:
        self._account.failed(conn.service.name, error, client=str(conn.peer), user=conn.user)


def _token_unknown(conn: Connection) -> RejectedError:
    """Return the error of a client whose routing token nobody takes: too old, used up, or made up."""
    detail = f"none of the {len(conn.excluded)} servers that were asked takes the client's routing token"
    return RejectedError("token-unknown", detail, DISCONNECT)


def _cure(conn: Connection) -> str:
    """Say what helps where people behind one address cannot be told apart."""
    methods = conn.service.persistence.methods
    before = methods[: methods.index(Method.SOURCE_IP)]
    return _UNREAD_COOKIE_CURE if conn.user and Method.RDP_COOKIE not in before else _ONE_ADDRESS_CURE


def _has_left(conn: Connection, gone: bool) -> bool:  # noqa: FBT001 (as a watch tells it)
    """Whether a client's hang-up is its end. `gone`: see `net.poller.Watch`.

    A FIN may also come from one that has asked and still listens. No RDP client does that before it has its
    answer, so it is its end; in `mode: tcp` nobody knows the client's protocol, and only who waits in the
    queue has to be there (docs/decisions/0020).
    """
    if gone or conn.service.mode is Mode.RDP or conn.queueing:
        return True
    conn.half_closed = True
    return False


def _gave_up(conn: Connection) -> ClientError:
    where = "the queue" if conn.queueing else "before a server had answered"
    return ClientError("gave-up", f"the client left {where}")
