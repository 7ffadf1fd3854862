"""What the list verbs answer with: which rows there are, in which order, and which of them are wanted."""

from collections.abc import Sequence
from typing import Any, Final

from rdpbalancer.control.paging import Group, Place
from rdpbalancer.control.rows import BindingRow, Event, QueueRow
from rdpbalancer.core.dispatch import Dispatcher
from rdpbalancer.core.ledger import LiveSession
from rdpbalancer.core.queue import Waiter
from rdpbalancer.errors import ConfigurationError
from rdpbalancer.model import Key, Method, ServerId
from rdpbalancer.runtime import select
from rdpbalancer.runtime.views import Views

LEVELS: Final = ("info", "warning", "error")


def sessions(dispatcher: Dispatcher, views: Views, matches: select.Matches) -> list[Group]:
    """Return the live sessions that match, the oldest first."""

    def place(live: LiveSession) -> Place | None:
        return (live.facts.started_at, live.facts.id) if matches(live) else None

    return [Group("", list(dispatcher.ledger), place, lambda at: views.session(at[1]))]


def persistence(
    dispatcher: Dispatcher,
    views: Views,
    *,
    service: str | None,
    server: str | None,
    key: str | None,
    method: Method | None,
) -> list[Group]:
    """Return the bindings by service, method and key; `key` is a part of one, in any case."""
    part = None if key is None else key.lower()

    def of(name: str) -> Group:
        bindings = dispatcher.bindings.of(name)

        def place(found: Key) -> Place | None:
            if method not in (None, found.method) or (part is not None and part not in found.value.lower()):
                return None
            if server is not None:
                bound = views.binding(name, found)
                if bound is None or not select.names_server(ServerId(name, bound.server), server):
                    return None
            return found  # not a copy: a million of them would be work for the garbage collector

        def row(at: Place) -> BindingRow | None:
            return views.binding(name, Key(*at))

        return Group(name, bindings.keys(), place, row)

    return [of(name) for name in sorted(dispatcher.farm.services) if service in (None, name)]


def queue(dispatcher: Dispatcher, views: Views, service: str | None) -> list[Group]:
    """Return who waits for a place, by service, the first first."""

    def of(name: str) -> Group:
        waiting = {waiter.ticket: waiter for waiter in dispatcher.queues.waiting(name)}

        def place(waiter: Waiter) -> Place:
            return (waiter.ticket,)

        def row(at: Place) -> QueueRow | None:
            return views.waiter(name, waiting[at[0]])

        return Group(name, list(waiting.values()), place, row)

    return [of(name) for name in sorted(dispatcher.farm.services) if service in (None, name)]


def events(
    recent: Sequence[Event],
    *,
    since: int | None,
    service: str | None,
    server: str | None,
    level: str | None,
) -> list[Group]:
    """Return the events that match, the oldest first."""
    by_id = {event["id"]: event for event in recent}
    least = 0 if level is None else LEVELS.index(level)

    def place(event: Event) -> Place | None:
        wanted = (
            (since is None or event["id"] > since)
            and service in (None, event.get("service"))
            and server in (None, event.get("server"), f"{event.get('service')}/{event.get('server')}")
            and LEVELS.index(event["level"]) >= least
        )
        return (event["id"],) if wanted else None

    def row(at: Place) -> Any:
        return by_id[at[0]]

    return [Group("", list(recent), place, row)]


def check_level(level: str | None) -> None:
    """Raise ConfigurationError if there is no such level."""
    if level is not None and level not in LEVELS:
        raise ConfigurationError("bad-parameters", f"level: it is {', '.join(LEVELS)}, not {level}")
