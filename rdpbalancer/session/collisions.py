"""What is said of keys that stand for more than one person."""

from rdpbalancer.core.dispatch import Dispatcher
from rdpbalancer.model import Key, Method
from rdpbalancer.session.connection import Connection
from rdpbalancer.telemetry.account import Account
from rdpbalancer.telemetry.events import Events
from rdpbalancer.telemetry.metrics import Metrics

_ONE_COOKIE = (
    "many addresses use one cookie at once, and so all go to one server: probably a domain name that mstsc"
    " cut short; let users log in as user@domain, or set on_collision: next-method"
)
_ONE_ADDRESS_CURE = (
    "probably a gateway (Guacamole, a web client) or NAT; let it send user names as cookies (Guacamole:"
    " load-balance-info), or the clients' addresses (accept_proxy), or set on_collision: next-method"
)
_UNREAD_COOKIE_CURE = "these clients send user names: put rdp-cookie before source-ip in persistence.methods"


class CollisionReports:
    """Reports every colliding key once, with what helps against it."""

    def __init__(self, *, dispatcher: Dispatcher, metrics: Metrics, events: Events, account: Account) -> None:
        self._dispatcher = dispatcher
        self._metrics = metrics
        self._events = events
        self._account = account

    def report(self, conn: Connection, key: Key) -> None:
        """Report that the connection's key collides, unless that has been reported."""
        service = conn.service.name
        if not self._dispatcher.bindings.first_collision(service, key):
            return
        if key.method is Method.RDP_COOKIE:
            self._metrics.collisions.labels(service).inc()
            user = self._account.users(key.value)
            self._events.warning("cookie_collision", service=service, user=user, detail=_ONE_COOKIE)
            return
        self._metrics.address_collisions.labels(service).inc()
        live = self._dispatcher.ledger.live_of(service, key)
        self._events.warning(
            "address_collision",
            service=service,
            source=key.value,
            sessions=live,
            detail=f"{live} sessions at once from {key.value} are told apart by this address alone, so all go"
            f" to one server: {_cure(conn)}",
        )


def _cure(conn: Connection) -> str:
    """Return what helps where people behind one address cannot be told apart."""
    methods = conn.service.persistence.methods
    before = methods[: methods.index(Method.SOURCE_IP)]
    return _UNREAD_COOKIE_CURE if conn.user and Method.RDP_COOKIE not in before else _ONE_ADDRESS_CURE
