"""What `status` warns of: events that an operator has to act on, until they are over, by one table.

Events pass by in the log and are forgotten; the person at the terminal asks `status`. A new event that
somebody has to act on gets its line here.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from rdpbalancer.control.rows import WarningRow
from rdpbalancer.core import status as st
from rdpbalancer.core.dispatch import Dispatcher
from rdpbalancer.model import Health, Intent

MINUTE: Final = 60.0
LATELY: Final = 10 * MINUTE
HOUR: Final = 60 * MINUTE
# Warnings at a time; a thousand servers whose agents fail are one finding.
MAX_WARNINGS: Final = 100


@dataclass(frozen=True, slots=True)
class Rule:
    """One line of the table.

    The warning begins with the event and ends with one of `until`, or `for_s` seconds after its last event,
    or with the service or server that it is about. There is one for each value of the fields `per`. `text`
    may name the event's fields.
    """

    event: str
    text: str
    until: tuple[str, ...] = ()
    for_s: float | None = None
    per: tuple[str, ...] = ()

    @property
    def code(self) -> str:
        """The warning's code: the event's name as codes are written."""
        return self.event.replace("_", "-")


_SERVER: Final = ("service", "server")

RULES: Final = (
    Rule(
        "state_not_written",
        "what you change and who is bound where is not written down and would be lost by a restart: {detail}",
        until=("state_written_again",),
    ),
    Rule(
        "state_unusable",
        "bindings and operators' words are in memory only and would be lost by a restart: {detail}",
        until=("state_usable_again",),
    ),
    Rule(
        "bindings_not_loaded",
        "bindings of before the start cannot be read, but one by one: {detail}",
        until=("bindings_loaded",),
    ),
    Rule(
        "state_not_locked",
        "a second service could use the same state, and each would lose what the other learns: {detail}",
        for_s=24 * HOUR,
    ),
    Rule(
        "user_hash_key_not_kept",
        "the key that users are hashed with in the log is not kept: {detail}",
        until=("reloaded",),
    ),
    Rule("state_damaged", "{detail}", for_s=24 * HOUR),
    Rule(
        "reload_failed",
        "the last reload failed, and the configuration before it is in use: {detail}",
        until=("reloaded",),
    ),
    Rule("config_not_read", "the configuration cannot be read: {detail}", until=("reloaded",)),
    Rule(
        "control_socket_mode_not_set",
        "the control socket does not have the configured mode: {detail}",
        until=("reloaded",),
    ),
    Rule("listener_missing", "{detail}", until=("listener_open",), per=("listener",)),
    Rule("accept_paused", "connections to {service} wait: {detail}", for_s=MINUTE, per=("service",)),
    Rule(
        "log_not_reopened", "the log file could not be opened anew: {detail}", until=("reloaded",), for_s=HOUR
    ),
    Rule(
        "log_not_written",
        "the log is not written, and lines are lost: {detail}",
        until=("log_written_again",),
        for_s=24 * HOUR,
    ),
    Rule("internal_error", "a defect of rdpbalancer, please report it: {detail}", for_s=HOUR),
    Rule("relay_lost", "a relay was lost, and {sessions} sessions with it", for_s=LATELY),
    Rule("relay_ended", "a relay ended and was replaced: {detail}", for_s=LATELY),
    Rule("router_ended", "the router ended and was started anew: {detail}", for_s=LATELY),
    Rule("process_stuck", "a process hung and was killed: {detail}", for_s=LATELY),
    Rule("process_not_started", "a process could not be started: {detail}", for_s=MINUTE),
    Rule("supervisor_silent", "the supervisor has not answered a reload", until=("reloaded",), for_s=LATELY),
    Rule(
        "upgrade_refused",
        "the last upgrade was refused: {detail}",
        until=("upgrading", "upgraded"),
        for_s=24 * HOUR,
    ),
    Rule(
        "upgrade_failed",
        "the last upgrade failed: {detail}",
        until=("upgrading", "upgraded"),
        for_s=24 * HOUR,
    ),
    Rule(
        "upgrade_reverted",
        "the last upgrade was taken back: {detail}",
        until=("upgraded",),
        for_s=24 * HOUR,
    ),
    Rule(
        "upgrade_not_reverted",
        "the last upgrade does not work and could not be taken back: {detail}",
        until=("upgraded",),
    ),
    Rule("code_changed", "other code is installed than runs: {detail}", until=("upgraded",)),
    # Told once for each key, at its beginning: it may well last the day.
    Rule("cookie_collision", "{service}: {detail}", until=("reloaded",), for_s=24 * HOUR, per=("service",)),
    Rule("address_collision", "{service}: {detail}", until=("reloaded",), for_s=24 * HOUR, per=("service",)),
    Rule(
        "name_not_resolved",
        "the name of {service}/{server} cannot be resolved: {detail}",
        until=("name_resolved",),
        per=_SERVER,
    ),
    Rule(
        "checks_not_made",
        "health checks cannot be made, so servers that fail are not noticed: {detail}",
        until=("checks_made_again",),
    ),
    Rule(
        "agent_failed",
        "the agent of {service}/{server} does not answer: {detail}",
        until=("agent_heard_again",),
        per=_SERVER,
    ),
)

_Key = tuple[str, tuple[Any, ...]]


@dataclass(slots=True)
class _Active:
    rule: Rule
    text: str
    since: float
    last_at: float
    about: Mapping[str, Any]


class Warnings:
    """Follows the events of the service. `wall` is Unix time."""

    def __init__(self, *, wall: Callable[[], float], rules: Iterable[Rule] = RULES) -> None:
        self._wall = wall
        self._active: dict[_Key, _Active] = {}
        self._begin = {rule.event: rule for rule in rules}
        self._end: dict[str, list[Rule]] = {}
        for rule in rules:
            for event in rule.until:
                self._end.setdefault(event, []).append(rule)

    def note(self, event: Mapping[str, Any]) -> None:
        """Take an event into account: ours, or one of another process of the service."""
        for ended in self._end.get(event["event"], ()):
            self._active.pop(_key(ended, event), None)
        rule = self._begin.get(event["event"])
        if rule is None:
            return
        key, now = _key(rule, event), float(event["time"])
        known = self._active.get(key)
        since = known.since if known is not None and not self._over(known) else now
        text = _one_line(rule.text.format_map(_Fields(event)))
        self._active[key] = _Active(rule, text, since, now, event)
        while len(self._active) > MAX_WARNINGS:
            del self._active[next(iter(self._active))]

    def rows(self, *, services: Collection[str], servers: Collection[tuple[str, str]]) -> list[WarningRow]:
        """Return what is to be warned of now, the latest first; of a farm with these services and servers."""
        for key in [key for key, active in self._active.items() if self._over(active)]:
            del self._active[key]
        rows = [
            WarningRow(active.rule.code, active.text, round(active.since, 3))
            for active in self._active.values()
            if _concerns(active.about, services, servers)
        ]
        return sorted(rows, key=lambda row: -row.since)

    def _over(self, active: _Active) -> bool:
        return active.rule.for_s is not None and self._wall() >= active.last_at + active.rule.for_s


def of_farm(dispatcher: Dispatcher, *, now: float, wall: float) -> list[WarningRow]:
    """Return what the farm itself warns of: a service nobody can use, an agent against the operator."""
    rows = []
    for service in dispatcher.farm.services.values():
        statuses = [(server, dispatcher.servers.statuses[server.id]) for server in service.servers]
        changed_at = max((status.changed_at for _, status in statuses), default=now)
        if not any(st.takes_new(server, status) for server, status in statuses):
            checking = any(status.health.health is Health.CHECKING for _, status in statuses)
            text = f"{service.name} has no usable server: nobody new can log in"
            if not checking:
                rows.append(WarningRow("no-servers", text, round(wall - (now - changed_at), 3)))
        for server, status in statuses:
            said = (
                status.agent.health.value if status.agent.health is Health.DOWN else status.agent.intent.value
            )
            if server.agent and status.intent is Intent.ONLINE and said not in (Health.UP, Intent.ONLINE):
                text = f"{server.id}: its feedback agent says {said}, and only the agent takes that back"
                since = round(wall - (now - status.changed_at), 3)
                rows.append(WarningRow("agent-disagrees", text, since))
    return rows[:MAX_WARNINGS]


def of_loading(services: Iterable[str], *, since: float) -> list[WarningRow]:
    """Return what is to be warned of while bindings of before a start at `since` (Unix) are being read."""
    text = "{}: bindings of before the start are still being read; each is found, not all are listed yet"
    return [WarningRow("bindings-loading", text.format(service), round(since, 3)) for service in services]


class _Fields(dict[str, Any]):
    """An event's fields for a text; what an event does not say is left open."""

    def __missing__(self, name: str) -> str:
        return "?"


def _one_line(text: str) -> str:
    """Mistakes in a configuration are a line each; a warning is one line, which no line end is to cut."""
    return "; ".join(text.splitlines())


def _key(rule: Rule, event: Mapping[str, Any]) -> _Key:
    return rule.event, tuple(event.get(field) for field in rule.per)


def _concerns(
    about: Mapping[str, Any], services: Collection[str], servers: Collection[tuple[str, str]]
) -> bool:
    service, server = about.get("service"), about.get("server")
    if service is not None and service not in services:
        return False
    return service is None or server is None or (service, server) in servers
