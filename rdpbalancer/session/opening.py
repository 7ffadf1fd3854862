"""The opening of a connection: what the client says first, what is refused on sight, and its key."""

from collections.abc import Callable

from rdpbalancer.core.admission import Refusal
from rdpbalancer.core.dispatch import Dispatcher
from rdpbalancer.errors import ClientError
from rdpbalancer.model import Method, Security
from rdpbalancer.net.handshake import Reader
from rdpbalancer.net.poller import Poller
from rdpbalancer.session.collisions import CollisionReports
from rdpbalancer.session.connection import Connection, RejectedError, configured
from rdpbalancer.telemetry.metrics import Metrics
from rdpbalancer.wire.confirm import NegotiationFailure, SecurityProtocol, build_failure
from rdpbalancer.wire.request import ConnectionRequest
from rdpbalancer.wire.token import decode_msts, msts_number

_NLA = (
    SecurityProtocol.HYBRID | SecurityProtocol.HYBRID_EX | SecurityProtocol.RDSTLS | SecurityProtocol.RDSAAD
)
_STRONG_ENOUGH = {Security.TLS: SecurityProtocol.SSL | _NLA, Security.NLA: _NLA}
_TOO_WEAK = {
    Security.TLS: NegotiationFailure.SSL_REQUIRED,
    Security.NLA: NegotiationFailure.HYBRID_REQUIRED,
}


class Opening:
    """Reads what clients open with. `identify` takes a source's place, or says why it gets none."""

    def __init__(
        self,
        *,
        dispatcher: Dispatcher,
        poller: Poller,
        metrics: Metrics,
        collisions: CollisionReports,
        identify: Callable[[Connection], Refusal | None],
        clock: Callable[[], float],
    ) -> None:
        self._dispatcher = dispatcher
        self._poller = poller
        self._metrics = metrics
        self._collisions = collisions
        self._identify = identify
        self._clock = clock

    async def read(self, conn: Connection, *, proxied: bool) -> None:
        """Read what the client opens with, and derive its key.

        `proxied`: a PROXY header comes first, and the source behind it is still to be admitted. Raises
        ClientError, ProtocolError, RejectedError; NoServerError: its service has been removed meanwhile.
        """
        deadline_at = conn.began_at + conn.service.timeouts.handshake_s
        with Reader(conn.client, self._poller, deadline_at=deadline_at) as reader:
            if proxied:
                header = await reader.proxy_header()
                conn.peer = header.source or conn.peer
                if refusal := self._identify(conn):
                    raise ClientError(refusal.value, f"{conn.peer.host} is over a limit or denied")
            conn.data, conn.request = await conn.frontend.open(reader)
            conn.watch = reader.watch_kept()
        if conn.request is not None:
            _refuse_weak(conn, conn.request)
            _read_token(conn, conn.request)
        self._derive_key(conn)
        conn.parsed_at = self._clock()

    def _derive_key(self, conn: Connection) -> None:
        service = configured(conn, self._dispatcher.farm)
        bindings = self._dispatcher.bindings
        derived = bindings.derive(service, cookie=conn.user, source=conn.peer.host)
        conn.key = derived.key
        if derived.ambiguous:
            self._metrics.ambiguous_cookies.labels(service.name).inc()
        for key in (*derived.colliding_keys, derived.key):
            if key is not None and bindings.collides(service, key):
                self._collisions.report(conn, key)


def _refuse_weak(conn: Connection, request: ConnectionRequest) -> None:
    required = conn.service.require_security
    if required is Security.ANY or (request.requested_protocols or 0) & _STRONG_ENOUGH[required]:
        return
    detail = f"the client does not offer the {required.value.upper()} that require_security asks for"
    raise RejectedError("security", detail, build_failure(_TOO_WEAK[required]))


def _read_token(conn: Connection, request: ConnectionRequest) -> None:
    if request.token is not None and Method.ROUTING_TOKEN in conn.service.persistence.methods:
        address = decode_msts(request.token)
        conn.token = address if address is not None else msts_number(request.token)
