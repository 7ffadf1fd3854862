"""The operator's verbs, as the control socket offers them. Each answers with what it has changed."""

from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Iterable
from dataclasses import replace
from ipaddress import ip_network
from typing import Any, Protocol

from rdpbalancer.core.dispatch import Dispatcher
from rdpbalancer.core.farm import MAX_WEIGHT, PersistencePolicy
from rdpbalancer.core.ledger import LiveSession
from rdpbalancer.core.persist import cookie_key, source_key
from rdpbalancer.core.status import Override
from rdpbalancer.errors import ConfigurationError
from rdpbalancer.model import CloseReason, Intent, Key, Method, ServerId
from rdpbalancer.runtime.views import Views
from rdpbalancer.runtime.watch import Watch
from rdpbalancer.telemetry.events import Events

Verb = Callable[..., Awaitable[Any]]


class Overrides(Protocol):
    """Where the operator's words are kept over a restart."""

    def overrides(self) -> dict[ServerId, Override]:
        """Return what the operator has said of which servers."""
        ...

    def set_override(self, server: ServerId, override: Override | None) -> None:
        """Remember an operator's word; None: as configured again."""
        ...


KickSessions = Callable[[int, list[str], CloseReason], None]


class Operator:
    """Carries out what operators ask for."""

    def __init__(
        self,
        *,
        dispatcher: Dispatcher,
        watch: Watch,
        views: Views,
        events: Events,
        overrides: Overrides,
        kick: KickSessions,
        clock: Callable[[], float],
        written: Callable[[], Awaitable[None]],
    ) -> None:
        self._dispatcher = dispatcher
        self._watch = watch
        self._views = views
        self._events = events
        self._overrides = overrides
        self._kick = kick
        self._clock = clock
        self._written = written

    def verbs(self) -> dict[str, Verb]:
        """Return every verb of this class by its name on the control socket."""
        return {
            "services": self._services,
            "servers": self._servers,
            "sessions": self._sessions,
            "persistence": self._persistence,
            "events": self._recent,
            "set-state": self._set_state,
            "set-weight": self._set_weight,
            "kick": self._kick_some,
            "persist-move": self._persist_move,
            "persist-delete": self._persist_delete,
        }

    def restore(self, servers: Collection[ServerId]) -> None:
        """Take over what operators said earlier of `servers` that have (re)entered the farm."""
        for server, override in self._overrides.overrides().items():
            if server in servers:
                self._watch.override(server, override, reason="kept over a restart")

    def kick_server(self, server: ServerId, reason: CloseReason) -> int:
        """End every session of a server; return how many there were."""
        return self._end(self._dispatcher.ledger.on(server), reason)

    # ---- show --------------------------------------------------------------------------------------

    async def _services(self) -> list[dict[str, Any]]:
        return self._views.services()

    async def _servers(self, service: str | None = None) -> list[dict[str, Any]]:
        return self._views.servers(service)

    async def _sessions(
        self, service: str | None = None, server: str | None = None, user: str | None = None
    ) -> list[dict[str, Any]]:
        return self._views.sessions(service, server, user)

    async def _persistence(self, service: str | None = None) -> list[dict[str, Any]]:
        return self._views.persistence(service)

    async def _recent(self) -> list[dict[str, Any]]:
        return self._events.recent()

    # ---- servers -----------------------------------------------------------------------------------

    async def _set_state(
        self, server: str, state: str, service: str | None = None, *, strict: bool = False, kick: bool = False
    ) -> dict[str, Any]:
        """Set what is wanted of a server, in one service or in every service that has one of this name."""
        if state not in set(Intent):
            raise ConfigurationError(
                "unknown-state", f"a server's state is online, drain or halt, not {state}"
            )
        kicked = 0
        found = self._find(server, service)
        for server_id in found:
            override = replace(self._override(server_id), intent=Intent(state), strict=strict)
            self._remember(server_id, override, reason=f"operator: {state}{' --strict' if strict else ''}")
            kicked += self.kick_server(server_id, CloseReason.KICKED) if kick else 0
        await self._written()  # an operator who has read "done" will not look again
        sessions = sum(self._dispatcher.ledger.sessions_on(server_id) for server_id in found)
        return {"servers": [str(server_id) for server_id in found], "sessions": sessions, "kicked": kicked}

    async def _set_weight(
        self, server: str, weight: int | None, service: str | None = None
    ) -> dict[str, Any]:
        """Set the runtime weight of a server; None: as configured."""
        if weight is not None and not 0 <= weight <= MAX_WEIGHT:
            raise ConfigurationError("bad-weight", f"a weight is 0 to {MAX_WEIGHT}, not {weight}")
        found = self._find(server, service)
        for server_id in found:
            override = replace(self._override(server_id), weight=weight)
            said = "as configured" if weight is None else str(weight)
            self._remember(server_id, override, reason=f"operator: weight {said}")
        await self._written()
        return {"servers": [str(server_id) for server_id in found], "weight": weight}

    def _override(self, server: ServerId) -> Override:
        status = self._dispatcher.statuses[server]
        return Override(status.intent, status.strict, status.runtime_weight)

    def _remember(self, server: ServerId, override: Override, *, reason: str) -> None:
        self._overrides.set_override(server, override if override != Override() else None)
        self._watch.override(server, override, reason=reason)
        self._events.info(
            "operator",
            service=server.service,
            server=server.name,
            state=override.intent.value,
            strict=override.strict,
            weight=override.weight,
            detail=reason,
        )

    def _find(self, name: str, service: str | None) -> list[ServerId]:
        """Return the servers of that name (``server`` or ``service/server``). Raises ConfigurationError."""
        if service is None and "/" in name:
            service, _, name = name.partition("/")
        servers = self._dispatcher.farm.servers()
        found = [id_ for id_ in servers if id_.name == name and service in (None, id_.service)]
        if not found:
            where = f" in service {service}" if service else ""
            names = ", ".join(sorted({str(id_) for id_ in servers}))
            raise ConfigurationError(
                "unknown-server", f"there is no server {name}{where}; there are: {names}"
            )
        return found

    # ---- sessions ----------------------------------------------------------------------------------

    async def _kick_some(
        self,
        session: str | None = None,
        user: str | None = None,
        server: str | None = None,
        source: str | None = None,
    ) -> dict[str, Any]:
        """End the sessions that match every word that is given."""
        if session is None and user is None and server is None and source is None:
            raise ConfigurationError("nothing-named", "name a session, --user, --server or --source")
        if session is not None and session not in self._dispatcher.ledger:
            raise ConfigurationError("unknown-session", f"there is no session {session}; it may have ended")
        matching = [
            live
            for live in self._dispatcher.ledger
            if session in (None, live.facts.id)
            and (user is None or user.lower() == (live.facts.user or "").lower())
            and server in (None, live.facts.server, str(live.facts.server_id))
            and source in (None, live.facts.source)
        ]
        if server is not None and not matching:
            self._find(server, None)  # a removed server may still have sessions; one that has none is a typo
        kicked = self._end(matching, CloseReason.KICKED)
        self._events.info("operator", detail=f"kicked {kicked} sessions", sessions=kicked)
        return {"kicked": kicked}

    def _end(self, sessions: Iterable[LiveSession], reason: CloseReason) -> int:
        by_relay: defaultdict[int, list[str]] = defaultdict(list)
        for session in sessions:
            by_relay[session.relay].append(session.facts.id)
        for relay, ids in by_relay.items():
            self._kick(relay, ids, reason)
        return sum(map(len, by_relay.values()))

    # ---- bindings ----------------------------------------------------------------------------------

    async def _persist_move(
        self, key: str, server: str, service: str | None = None, method: str | None = None
    ) -> dict[str, Any]:
        """Bind a key to a server, from its next connection on; live sessions stay where they are."""
        now = self._clock()
        targets = {id_.service: id_.name for id_ in self._find(server, service)}
        found = [(name, bound) for name, bound in self._keys(key, service, method) if name in targets]
        if not found:
            found = [(name, self._new_key(name, key, method)) for name in targets]
        for name, bound in found:
            policy = self._dispatcher.farm.services[name].persistence
            live = self._dispatcher.ledger.live_of(name, bound)
            self._dispatcher.bindings(name).move(
                bound, targets[name], now=now, ttl_s=None if live else policy.timeout_s
            )
            self._dispatcher.all_look_again(name)
        moved_to = next(targets[name] for name, _ in found)
        self._events.info("operator", detail=f"moved {len(found)} bindings to {moved_to}", server=moved_to)
        await self._written()
        return {"moved": len(found), "server": moved_to}

    async def _persist_delete(
        self, key: str, service: str | None = None, method: str | None = None
    ) -> dict[str, Any]:
        """Forget a key's binding."""
        found = self._keys(key, service, method)
        if not found:
            raise ConfigurationError("unknown-key", f"there is no binding of {key}")
        for name, bound in found:
            self._dispatcher.bindings(name).delete(bound)
            self._dispatcher.all_look_again(name)
        self._events.info("operator", detail=f"deleted {len(found)} bindings")
        await self._written()
        return {"deleted": len(found)}

    def _keys(self, key: str, service: str | None, method: str | None) -> list[tuple[str, Key]]:
        methods = [Method.RDP_COOKIE, Method.SOURCE_IP] if method is None else [_method(method)]
        if service is not None and service not in self._dispatcher.farm.services:
            raise ConfigurationError("unknown-service", f"there is no service {service}")
        now = self._clock()
        return [
            (name, each)
            for name, configured in self._dispatcher.farm.services.items()
            if service in (None, name)
            for each in (_key(configured.persistence, key, wanted) for wanted in methods)
            if each is not None and self._dispatcher.bindings(name).get(each, now=now) is not None
        ]

    def _new_key(self, service: str, key: str, method: str | None) -> Key:
        """Return the key of somebody who has no binding yet: the one that the next connection will have."""
        policy = self._dispatcher.farm.services[service].persistence
        made = _key(policy, key, _method(method or Method.RDP_COOKIE))
        if made is None:
            raise ConfigurationError("bad-address", f"{key} is neither an IP address nor a network")
        return made


def _method(name: str) -> Method:
    if name not in (Method.RDP_COOKIE, Method.SOURCE_IP):
        raise ConfigurationError("unknown-method", f"bindings are of rdp-cookie or source-ip, not {name}")
    return Method(name)


def _key(policy: PersistencePolicy, key: str, method: Method) -> Key | None:
    """Return the key as connections have it; None: what is no address or network is no source.

    A network is taken as it is: that is how `show persistence` shows sources that are cut to a prefix.
    """
    if method is not Method.SOURCE_IP:
        return cookie_key(policy, key) or Key(method, key.lower())
    try:
        return Key(method, str(ip_network(key))) if "/" in key else source_key(policy, key)
    except ValueError:
        return None
