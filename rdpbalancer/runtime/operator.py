"""The operator's verbs, as the control socket offers them. Each answers with what it has changed."""

from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Iterable
from dataclasses import replace
from ipaddress import ip_network
from typing import Any, Final, Protocol

from rdpbalancer.core.dispatch import Dispatcher
from rdpbalancer.core.farm import MAX_WEIGHT, PersistencePolicy
from rdpbalancer.core.ledger import LiveSession
from rdpbalancer.core.near import near_keys
from rdpbalancer.core.persist import cookie_key, source_key
from rdpbalancer.core.status import Override
from rdpbalancer.errors import ConfigurationError
from rdpbalancer.model import CloseReason, Intent, Key, Method, ServerId
from rdpbalancer.runtime import select
from rdpbalancer.runtime.views import Views
from rdpbalancer.runtime.watch import Watch
from rdpbalancer.telemetry.events import Events

Verb = Callable[..., Awaitable[Any]]

# Rows in one answer of a list: a few hundred KiB, and some milliseconds of work.
MAX_ROWS: Final = 1000
LEVELS: Final = ("info", "warning", "error")


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
            "queue": self._queue,
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
        self._check(service)
        return self._views.servers(service)

    async def _sessions(
        self,
        service: str | None = None,
        server: str | None = None,
        user: str | None = None,
        source: str | None = None,
        *,
        limit: int = MAX_ROWS,
        after: str | None = None,
    ) -> dict[str, Any]:
        self._check(service, server)
        return _page(self._views.sessions(service, server, user, source), limit, after)

    async def _persistence(
        self,
        service: str | None = None,
        server: str | None = None,
        key: str | None = None,
        method: str | None = None,
        *,
        limit: int = MAX_ROWS,
        after: str | None = None,
    ) -> dict[str, Any]:
        self._check(service, server)
        wanted = None if method is None else _method(method)
        return _page(self._views.persistence(service, server, key, wanted), limit, after)

    async def _queue(
        self, service: str | None = None, *, limit: int = MAX_ROWS, after: str | None = None
    ) -> dict[str, Any]:
        self._check(service)
        return _page(self._views.queue(service), limit, after)

    async def _recent(
        self,
        since: int | None = None,
        service: str | None = None,
        server: str | None = None,
        level: str | None = None,
        *,
        limit: int = MAX_ROWS,
        after: str | None = None,
    ) -> dict[str, Any]:
        if level is not None and level not in LEVELS:
            raise ConfigurationError("bad-parameters", f"a level is {', '.join(LEVELS)}, not {level}")
        events = self._events.recent()
        if service not in {None, *(event.get("service") for event in events)}:
            self._check(service)
        if server not in {None, *(event.get("server") for event in events)}:
            self._check(service, server)
        rows = [
            event
            for event in events
            if (since is None or event["id"] > since)
            and service in (None, event.get("service"))
            and server in (None, event.get("server"))
            and (level is None or LEVELS.index(event["level"]) >= LEVELS.index(level))
        ]
        return _page(rows, limit, after)

    def _check(self, service: str | None, server: str | None = None) -> None:
        select.check_service(self._dispatcher, service)
        select.check_server(self._dispatcher, server, service)

    # ---- servers -----------------------------------------------------------------------------------

    async def _set_state(
        self,
        state: str,
        servers: list[str] | None = None,
        server: str | None = None,
        service: str | None = None,
        *,
        strict: bool = False,
        kick: bool = False,
        reason: str = "",
    ) -> dict[str, Any]:
        """Set what is wanted of servers, in one service or in every service that has them."""
        if state not in set(Intent):
            raise ConfigurationError(
                "unknown-state", f"a server's state is online, drain or halt, not {state}"
            )
        found = select.servers(self._dispatcher, _named(servers, server), service)
        kicked = 0
        for server_id in found:
            override = replace(self._override(server_id), intent=Intent(state), strict=strict)
            said = f"operator: {state}{' --strict' if strict else ''}"
            self._remember(server_id, override, said, reason)
            kicked += self.kick_server(server_id, CloseReason.KICKED) if kick else 0
        await self._written()  # an operator who has read "done" will not look again
        return {"servers": self._views.states(found), "kicked": kicked}

    async def _set_weight(
        self,
        weight: int | None = None,
        servers: list[str] | None = None,
        server: str | None = None,
        service: str | None = None,
        *,
        percent: int | None = None,
        reason: str = "",
    ) -> dict[str, Any]:
        """Set the runtime weight of servers; None: as configured. `percent`: of each one's own."""
        if weight is not None and not 0 <= weight <= MAX_WEIGHT:
            raise ConfigurationError("bad-weight", f"a weight is 0 to {MAX_WEIGHT}, not {weight}")
        if percent is not None and (weight is not None or not 0 <= percent <= 100):
            raise ConfigurationError(
                "bad-weight", f"a percentage is 0 to 100 in place of a weight, not {percent}"
            )
        found = select.servers(self._dispatcher, _named(servers, server), service)
        configured = self._dispatcher.farm.servers()
        for server_id in found:
            wanted = weight if percent is None else _share(configured[server_id].weight, percent)
            override = replace(self._override(server_id), weight=wanted)
            said = "as configured" if wanted is None else str(wanted)
            self._remember(server_id, override, f"operator: weight {said}", reason)
        await self._written()
        return {"servers": [str(server_id) for server_id in found], "weight": weight}

    def _override(self, server: ServerId) -> Override:
        status = self._dispatcher.statuses[server]
        return Override(status.intent, status.strict, status.runtime_weight)

    def _remember(self, server: ServerId, override: Override, said: str, reason: str) -> None:
        self._overrides.set_override(server, override if override != Override() else None)
        self._watch.override(server, override, reason=f"{said}: {reason}" if reason else said)
        self._events.info(
            "operator",
            service=server.service,
            server=server.name,
            state=override.intent.value,
            strict=override.strict,
            weight=override.weight,
            detail=said,
            **_given(reason=reason),
        )

    # ---- sessions ----------------------------------------------------------------------------------

    async def _kick_some(
        self,
        session: str | None = None,
        user: str | None = None,
        server: str | None = None,
        service: str | None = None,
        source: str | None = None,
        *,
        all: bool = False,  # noqa: A002 (the protocol's word)
        reason: str = "",
    ) -> dict[str, Any]:
        """End the sessions that match every word that is given, or all."""
        if all == any(word is not None for word in (session, user, server, service, source)):
            message = "name a session, --user, --server, --service or --source; or --all, without any of them"
            raise ConfigurationError("nothing-named", message)
        if session is not None and session not in self._dispatcher.ledger:
            raise ConfigurationError("unknown-session", f"there is no session {session}; it may have ended")
        self._check(service, server)
        matches = select.sessions(session=session, service=service, server=server, user=user, source=source)
        kicked = self._end(filter(matches, self._dispatcher.ledger), CloseReason.KICKED)
        words = {"session": session, "user": user, "server": server, "service": service, "source": source}
        named = ", ".join(f"{name} {word}" for name, word in words.items() if word is not None)
        detail = f"kicked {kicked} sessions: {named or 'all'}"
        self._events.info("operator", detail=detail, sessions=kicked, **_given(reason=reason))
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
        targets = {id_.service: id_.name for id_ in select.servers(self._dispatcher, [server], service)}
        found = [(name, bound) for name, bound in self._keys(key, service, method) if name in targets]
        existed, near = bool(found), []
        if not existed:
            found = [(name, self._new_key(name, key, method)) for name in targets]
            near = self._near(key, service)
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
        created = 0 if existed else len(found)
        return {"moved": len(found) - created, "created": created, "near": near, "server": moved_to}

    async def _persist_delete(
        self, key: str, service: str | None = None, method: str | None = None
    ) -> dict[str, Any]:
        """Forget a key's binding."""
        found = self._keys(key, service, method)
        if not found:
            alike = self._near(key, service)
            hint = f"; there are: {', '.join(alike)}" if alike else ""
            raise ConfigurationError("unknown-key", f"there is no binding of {key}{hint}")
        for name, bound in found:
            self._dispatcher.bindings(name).delete(bound)
            self._dispatcher.all_look_again(name)
        self._events.info("operator", detail=f"deleted {len(found)} bindings")
        await self._written()
        return {"deleted": len(found)}

    def _keys(self, key: str, service: str | None, method: str | None) -> list[tuple[str, Key]]:
        methods = [Method.RDP_COOKIE, Method.SOURCE_IP] if method is None else [_method(method)]
        select.check_service(self._dispatcher, service)
        now = self._clock()
        return [
            (name, each)
            for name, configured in self._dispatcher.farm.services.items()
            if service in (None, name)
            for each in (_key(configured.persistence, key, wanted) for wanted in methods)
            if each is not None and self._dispatcher.bindings(name).get(each, now=now) is not None
        ]

    def _near(self, key: str, service: str | None) -> list[str]:
        """Return keys that somebody may have meant who wrote `key`, at most ten."""
        return near_keys(
            key,
            (
                entry.key
                for name in self._dispatcher.farm.services
                if service in (None, name)
                for entry in self._dispatcher.bindings(name).entries(now=self._clock())
            ),
        )

    def _new_key(self, service: str, key: str, method: str | None) -> Key:
        """Return the key of somebody who has no binding yet: the one that the next connection will have."""
        policy = self._dispatcher.farm.services[service].persistence
        made = _key(policy, key, _method(method or Method.RDP_COOKIE))
        if made is None:
            raise ConfigurationError("bad-address", f"{key} is neither an IP address nor a network")
        return made


def _share(weight: int, percent: int) -> int:
    """Return so much of a weight; a small share of a small weight is no drain."""
    return max(1, round(weight * percent / 100)) if weight and percent else 0


def _given(**fields: str) -> dict[str, str]:
    return {name: value for name, value in fields.items() if value}


def _named(servers: list[str] | None, server: str | None) -> list[str]:
    names = [*(servers or []), *([server] if server is not None else [])]
    if not names:
        raise ConfigurationError("bad-parameters", "servers: name at least one")
    return names


def _page(rows: list[dict[str, Any]], limit: int, after: str | None) -> dict[str, Any]:
    if not 1 <= limit <= MAX_ROWS:
        raise ConfigurationError("bad-parameters", f"limit is 1 to {MAX_ROWS}, not {limit}")
    start = int(after or 0)
    end = start + limit
    return {
        "rows": rows[start:end],
        "next": str(end) if end < len(rows) else None,
        "total": len(rows),
    }


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
