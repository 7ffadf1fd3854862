"""Placing a connection: a server is chosen, waited for if need be, dialled, and has replied."""

from collections.abc import Callable

from rdpbalancer.core.dispatch import Dispatcher, Placed
from rdpbalancer.core.redirection import MAX_ASKED, SEARCH_S
from rdpbalancer.core.route import Enqueue, Reject
from rdpbalancer.errors import NoServerError, ServerError
from rdpbalancer.model import Endpoint, ServerId
from rdpbalancer.net import dial
from rdpbalancer.net.dial import Upstream
from rdpbalancer.net.poller import Poller
from rdpbalancer.session.agreement_wait import agreed
from rdpbalancer.session.client_watch import ClientWatch, gave_up
from rdpbalancer.session.connection import (
    Connection,
    RejectedError,
    ServerReply,
    configured,
    plain_address,
)
from rdpbalancer.session.queue_wait import QueueWait
from rdpbalancer.telemetry import logs
from rdpbalancer.telemetry.account import Account
from rdpbalancer.telemetry.metrics import Metrics
from rdpbalancer.wire.proxy import build_proxy


class Placement:
    """Finds servers for connections.

    `dial_failed(server, error)` is told of every dial that failed, as health checks are, and
    `dialled(server, address)` of each to which another address than the server's first has answered.
    """

    def __init__(
        self,
        *,
        dispatcher: Dispatcher,
        poller: Poller,
        watch: ClientWatch,
        metrics: Metrics,
        account: Account,
        dial_failed: Callable[[ServerId, ServerError], None],
        dialled: Callable[[ServerId, str], None],
        clock: Callable[[], float],
    ) -> None:
        self._dispatcher = dispatcher
        self._poller = poller
        self._watch = watch
        self._metrics = metrics
        self._account = account
        self._dial_failed = dial_failed
        self._dialled = dialled
        self._clock = clock
        self._log = logs.get()

    async def connect(self, conn: Connection) -> ServerReply:
        """Dial one server after the other until one has replied, and return its reply.

        Its slot is the caller's, to be released or made a session. Raises NoServerError, the last
        ServerError, RejectedError (nobody takes the routing token), ClientError (the client has left).
        """
        self._watch.watch_if_slow(conn)
        while True:
            placed = await self._choose(conn)
            try:
                if placed.answer is None or await agreed(placed.answer):
                    conn.dialled_at = self._clock()
                    return await self._dial(conn, placed)
            except ServerError as error:
                if not self._try_another(conn, placed, error):
                    if conn.not_theirs == len(conn.excluded):
                        raise _token_unknown(conn) from error
                    raise
            except BaseException:
                self._dispatcher.release(placed.slot, now=self._clock())
                raise
            else:  # another machine has bound the key meanwhile
                self._dispatcher.release(placed.slot, now=self._clock())
            configured(conn, self._dispatcher.farm)

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
            raise gave_up(conn)
        conn.queueing = True
        self._watch.watch(conn)
        slot = await QueueWait(conn, self._dispatcher, self._clock).wait(wanted.server)
        conn.queueing = False
        try:
            configured(conn, self._dispatcher.farm)
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

    async def _dial(self, conn: Connection, placed: Placed) -> ServerReply:
        service, route = conn.service, placed.route
        server, status = service.server(route.server.name), self._dispatcher.servers.get(route.server)
        if server is None or status is None:
            raise ServerError("removed", f"{route.server} is not configured any more")
        try:
            upstream = await dial.connect(
                self._poller,
                status.addresses,
                server.address.port,
                deadline_at=conn.dialled_at + service.timeouts.connect_s,
            )
        except ServerError as error:
            # Only the dial itself speaks about the server's health. What it does after a stranger's request
            # does not: three odd requests would otherwise take a server out of the farm.
            self._dial_failed(route.server, error)
            raise
        if upstream.address != status.addresses[0]:
            self._dialled(route.server, upstream.address)
        return await self._ask(conn, placed, upstream)

    async def _ask(self, conn: Connection, placed: Placed, upstream: Upstream) -> ServerReply:
        """Pass the client's request on and return the server's reply."""
        try:
            deadline_at = self._clock() + conn.service.timeouts.confirm_s
            await upstream.send(_proxy_header(conn) + conn.data, deadline_at=deadline_at)
            data, confirm = await conn.frontend.await_reply(upstream, deadline_at=deadline_at)
        except BaseException:
            upstream.close()
            raise
        return ServerReply(placed.slot, placed.route, upstream.detach(), data, confirm)

    def _try_another(self, conn: Connection, placed: Placed, error: ServerError) -> bool:
        """Note that a server has failed the connection; return whether another one is to be tried."""
        server = placed.slot.server
        conn.excluded |= {server}
        self._dispatcher.release(placed.slot, now=self._clock())
        if isinstance(conn.token, int) and error.code in ("closed", "reset"):
            # One that closes on a token it has not made is no failure: that is how its maker is found.
            conn.not_theirs += 1
            self._metrics.tokens_searched.labels(server.service).inc()
            self._log.debug("token_not_theirs", service=server.service, server=server.name)
            return self._goes_on(conn)
        self._account.server_failed(server, error, source=conn.peer.host, user=conn.user)
        another = self._goes_on(conn)
        if another:
            self._metrics.redispatches.labels(*server).inc()
        return another

    def _goes_on(self, conn: Connection) -> bool:
        """Whether another server is tried. Raises ClientError: the client has left."""
        if not self._may_try_another(conn):
            return False
        self._watch.watch(conn)
        # Who has closed its half may have left: one server's time is what such a client is given.
        return not conn.half_closed

    def _may_try_another(self, conn: Connection) -> bool:
        failed, now = len(conn.excluded), self._clock()
        if isinstance(conn.token, int) and now >= conn.began_at + SEARCH_S:
            return False
        if failed <= conn.service.redispatch:
            return True
        searches = isinstance(conn.token, int) and failed < MAX_ASKED
        return searches and self._dispatcher.may_search(conn.service.name, conn.peer.host, now=now)


def _proxy_header(conn: Connection) -> bytes:
    if not conn.service.send_proxy:
        return b""
    host, port = conn.client.getsockname()[:2]
    return build_proxy(conn.service.send_proxy, conn.peer, Endpoint(plain_address(host), port))


def _token_unknown(conn: Connection) -> RejectedError:
    """Return the error of a client whose routing token nobody takes: too old, used up, or made up."""
    detail = f"none of the {len(conn.excluded)} servers that were asked takes the client's routing token"
    return RejectedError("token-unknown", detail, conn.frontend.refusal)
