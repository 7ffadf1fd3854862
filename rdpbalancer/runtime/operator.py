"""The operator's verbs, as the control socket offers them. Each answers with what it has changed."""

import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Iterable
from dataclasses import replace
from typing import Any, Protocol

from msgspec import UNSET, UnsetType

from rdpbalancer.core.dispatch import Dispatcher
from rdpbalancer.core.farm import MAX_WEIGHT
from rdpbalancer.core.ledger import LiveSession
from rdpbalancer.core.status import Override
from rdpbalancer.errors import ConfigurationError
from rdpbalancer.model import CloseReason, Intent, Key, Method, ServerId
from rdpbalancer.runtime import select
from rdpbalancer.runtime.binding_verbs import BindingVerbs
from rdpbalancer.runtime.queries import Breathe, Queries, at_once
from rdpbalancer.runtime.server_monitor import ServerStatusManager
from rdpbalancer.runtime.views import Views
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
    """Carries out what operators ask for.

    `breathe` is awaited between the steps of what may be long. `user_in_log` gives a user's name as the log
    may have it (`log.user`).
    """

    def __init__(
        self,
        *,
        dispatcher: Dispatcher,
        watch: ServerStatusManager,
        views: Views,
        events: Events,
        overrides: Overrides,
        kick: KickSessions,
        clock: Callable[[], float],
        written: Callable[[], Awaitable[None]],
        breathe: Breathe = at_once,
        user_in_log: Callable[[str | None], str | None] = lambda user: user,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._dispatcher = dispatcher
        self._watch = watch
        self._views = views
        self._events = events
        self._overrides = overrides
        self._kick = kick
        self._written = written
        self._breathe = breathe
        self._user_in_log = user_in_log
        self._wall = wall
        self.questions = Queries(dispatcher, views, events, breathe=breathe)
        self._bindings = BindingVerbs(
            dispatcher, clock=clock, tell=self.tell, written=written, breathe=breathe
        )
        # The last word about each server, `online` too: who put it back is asked as often as who took it out.
        self._words: dict[ServerId, Override] = {}
        views.take_words(self._words)

    def verbs(self) -> dict[str, Verb]:
        """Return every verb by its name on the control socket."""
        return {
            **self.questions.verbs(),
            **self._bindings.verbs(),
            "set-state": self._set_state,
            "set-weight": self._set_weight,
            "kick": self._kick_some,
        }

    def restore(self, servers: Collection[ServerId]) -> None:
        """Take over what operators said earlier of `servers` that have (re)entered the farm."""
        for server, override in self._overrides.overrides().items():
            if server in servers:
                self._words[server] = override
                said = f"{_in_words(_said(override), override.reason)} (kept over a restart)"
                self._watch.override(server, override, reason=said)

    def kick_server(self, server: ServerId, reason: CloseReason) -> int:
        """End every session of a server; return how many there were."""
        return self._end(self._dispatcher.ledger.on(server), reason)

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
        actor: str = "",
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
            said = f"{state}{' --strict' if strict else ''}"
            self._remember(server_id, override, said, reason=reason, actor=actor)
            kicked += self.kick_server(server_id, CloseReason.KICKED) if kick else 0
        await self._written()  # an operator who has read "done" will not look again
        return {"servers": self._views.states(found), "kicked": kicked}

    async def _set_weight(
        self,
        weight: int | UnsetType | None = UNSET,
        servers: list[str] | None = None,
        server: str | None = None,
        service: str | None = None,
        *,
        percent: int | None = None,
        reason: str = "",
        actor: str = "",
    ) -> dict[str, Any]:
        """Set the runtime weight of servers; None: as configured. `percent`: of the configured one."""
        if percent is not None and (weight not in (None, UNSET) or not 0 <= percent <= 100):
            message = f"a percentage is 0 to 100 in place of a weight, not {percent}"
            raise ConfigurationError("bad-weight", message)
        if isinstance(weight, UnsetType):
            if percent is None:
                raise ConfigurationError(
                    "bad-parameters", "weight: give one, null for as configured, or percent"
                )
            weight = None
        if weight is not None and not 0 <= weight <= MAX_WEIGHT:
            raise ConfigurationError("bad-weight", f"a weight is 0 to {MAX_WEIGHT}, not {weight}")
        found = select.servers(self._dispatcher, _named(servers, server), service)
        configured = self._dispatcher.farm.servers()
        for server_id in found:
            wanted = weight if percent is None else _share(configured[server_id].weight, percent)
            override = replace(self._override(server_id), weight=wanted)
            said = f"weight {'as configured' if wanted is None else wanted}"
            self._remember(server_id, override, said, reason=reason, actor=actor)
        await self._written()
        return {"servers": [str(server_id) for server_id in found], "weight": weight}

    def _override(self, server: ServerId) -> Override:
        status = self._dispatcher.servers.statuses[server]
        return Override(status.intent, status.strict, status.runtime_weight)

    def _remember(self, server: ServerId, override: Override, said: str, *, reason: str, actor: str) -> None:
        as_configured = override == Override()
        word = replace(override, reason=reason, actor=actor, since=self._wall())
        self._words[server] = word
        self._overrides.set_override(server, None if as_configured else word)
        self._watch.override(server, word, reason=_in_words(said, reason))
        self.tell(
            said,
            service=server.service,
            server=server.name,
            state=override.intent.value,
            strict=override.strict,
            weight=override.weight,
            reason=reason,
            actor=actor,
        )

    def tell(self, said: str, *, actor: str, reason: str = "", key: Key | None = None, **fields: Any) -> None:
        """Make the event of an operator's act: who, what, why."""
        if key is not None:
            user = key.method is not Method.SOURCE_IP
            fields["key"] = self._user_in_log(key.value) if user else key.value
        by = {"actor": actor, "reason": reason}
        given = {name: word for name, word in by.items() if word}
        self._events.info("operator", **fields, detail=said, **given)

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
        actor: str = "",
    ) -> dict[str, Any]:
        """End the sessions that match every word that is given, or all."""
        words = {"session": session, "user": user, "server": server, "service": service, "source": source}
        given = {name: word for name, word in words.items() if word is not None}
        if all == bool(given):
            message = "name a session, --user, --server, --service or --source; or --all, without any of them"
            raise ConfigurationError("nothing-named", message)
        if session is not None and session not in self._dispatcher.ledger:
            raise ConfigurationError("unknown-session", f"there is no session {session}; it may have ended")
        select.check_service(self._dispatcher, service)
        select.check_server(self._dispatcher, server, service)
        matches = select.sessions(**given)
        matching = []
        for live in self._dispatcher.ledger:
            if matches(live):
                matching.append(live)
            await self._breathe()
        kicked = self._end(matching, CloseReason.KICKED)
        if user is not None:
            given["user"] = self._user_in_log(user) or "(not logged)"
        which = ", ".join(f"{name} {word}" for name, word in given.items()) or "all"
        what = f"kicked {kicked} session{'' if kicked == 1 else 's'} ({which})"
        self.tell(what, sessions=kicked, reason=reason, actor=actor)
        return {"kicked": kicked}

    def _end(self, sessions: Iterable[LiveSession], reason: CloseReason) -> int:
        by_relay: defaultdict[int, list[str]] = defaultdict(list)
        for session in sessions:
            by_relay[session.relay].append(session.facts.id)
        for relay, ids in by_relay.items():
            self._kick(relay, ids, reason)
        return sum(map(len, by_relay.values()))


def _said(override: Override) -> str:
    """Return an operator's word as it was said; of a state and a weight the state, which keeps users away."""
    if override.intent is Intent.ONLINE and override.weight is not None:
        return f"weight {override.weight}"
    return f"{override.intent.value}{' --strict' if override.strict else ''}"


def _in_words(said: str, reason: str) -> str:
    return f"operator: {said}: {reason}" if reason else f"operator: {said}"


def _share(weight: int, percent: int) -> int:
    """Return so much of a weight; a small share of a small weight is no drain."""
    return max(1, round(weight * percent / 100)) if weight and percent else 0


def _named(servers: list[str] | None, server: str | None) -> list[str]:
    names = [*(servers or []), *([server] if server is not None else [])]
    if not names:
        raise ConfigurationError("bad-parameters", "servers: name at least one")
    return names
