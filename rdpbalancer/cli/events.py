"""What an event says, in a line for a person."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import click

from rdpbalancer.cli.asking import rows
from rdpbalancer.cli.changes import changes_text
from rdpbalancer.cli.output import counted, duration_text
from rdpbalancer.cli.table import Row, shown

_POLL_S: Final = 0.5
# An upgrade replaces the router; a crash, too.
_PATIENCE_S: Final = 60.0

# These stand in columns of their own, or say nothing to a person.
_ELSEWHERE: Final = frozenset(
    {"id", "time", "level", "event", "service", "server", "detail", "timestamp", "process"}
)


def following(
    context: click.Context, found: Sequence[dict[str, Any]], **filters: Any
) -> Iterator[dict[str, Any]]:
    """Yield `found`, then what happens from then on, without end. A router that is replaced is waited for."""
    from rdpbalancer.control.client import UnreachableError

    yield from found
    last = max((event["id"] for event in found), default=int(time.time() * 1000))
    unreachable = 0
    while True:
        try:
            time.sleep(_POLL_S)
            for event in rows(context, "events", since=last, **filters):
                last = event["id"]
                yield event
            unreachable = 0
        except UnreachableError:
            unreachable += 1
            if unreachable * _POLL_S > _PATIENCE_S:
                raise


def event_cells(row: Row, *, now: float, short: bool) -> dict[str, Any]:
    """Return an event with what is shown of it. `short`: today's events by their time alone."""
    at, today = time.localtime(row["time"]), time.localtime(now)
    on_this_day = (at.tm_year, at.tm_yday) == (today.tm_year, today.tm_yday)
    form = "%H:%M:%S" if short and on_this_day else "%Y-%m-%d %H:%M:%S"
    where = [str(row[name]) for name in ("service", "server") if row.get(name)]
    return {
        **row,
        "at": time.strftime(form, at),
        "where": "/".join(where),
        "detail_text": detail_text(row),
    }


def detail_text(event: Row) -> str:
    """Return what an event says beyond its name and its place."""
    special = _SPECIAL.get(event["event"], _fields)
    fields = special({name: value for name, value in event.items() if name not in _ELSEWHERE})
    said = [fields, str(event.get("detail") or "")]
    if event["event"] == "operator":
        said.reverse()  # what was done, then by whom
    return ", ".join(filter(None, said))


def _agent_changed(fields: Mapping[str, Any]) -> str:
    state, health = fields.get("state"), fields.get("health")
    return f"{state}, {health}" if health == "down" else str(state or "")


def _sessions(fields: Mapping[str, Any]) -> str:
    return counted(int(fields.get("sessions", 0)), "session")


def _operator(fields: Mapping[str, Any]) -> str:
    """Return who it was, and why; the detail says what was done."""
    said = [f"by {fields['actor']}"] if fields.get("actor") else []
    said += [f"({fields['reason']})"] if fields.get("reason") else []
    return " ".join(said)


def _fields(fields: Mapping[str, Any]) -> str:
    return ", ".join(_field(name, value) for name, value in fields.items() if value not in (None, "", []))


def _field(name: str, value: Any) -> str:
    if name.endswith("_s") and isinstance(value, int | float):
        return f"{name.removesuffix('_s').replace('_', ' ')} {duration_text(value)}"
    return f"{name.replace('_', ' ')} {shown(value)}"


_SPECIAL: Final[Mapping[str, Callable[[Mapping[str, Any]], str]]] = {
    "agent_changed": _agent_changed,
    "operator": _operator,
    "reloaded": changes_text,
    "router_ready": _sessions,
}
