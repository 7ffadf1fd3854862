"""The columns of each list: for programs in a pipe (a contract), and for people at a terminal."""

from collections.abc import Mapping
from typing import Any, Final

from rdpbalancer.cli.output import ago_text, bytes_text, counted, duration_text
from rdpbalancer.cli.table import Column, Row

# ---- in a pipe: added to at the end only, scripts count ------------------------------------------------

SERVICES: Final = (
    Column("name", "SERVICE"),
    Column("listen", "LISTEN"),
    Column("mode", "MODE"),
    Column("scheduler", "SCHEDULER"),
    Column("sessions", "SESSIONS"),
    Column("queue", "QUEUE"),
    Column("usable", "SERVERS"),
)
SERVERS: Final = (
    Column("service", "SERVICE"),
    Column("name", "SERVER"),
    Column("address", "ADDRESS"),
    Column("health", "HEALTH"),
    Column("state_text", "STATE"),
    Column("sessions", "SESSIONS"),
    Column("weight_text", "WEIGHT"),
    Column("queue", "QUEUE"),
    Column("agent_text", "AGENT"),
    Column("since", "SINCE"),
    Column("reason", "REASON"),
)
SESSIONS: Final = (
    Column("id", "SESSION"),
    Column("user", "USER"),
    Column("client", "CLIENT"),
    Column("service", "SERVICE"),
    Column("server", "SERVER"),
    Column("reason", "REASON"),
    Column("age", "AGE"),
    Column("up", "UP"),
    Column("down", "DOWN"),
    Column("relay", "RELAY"),
)
BINDINGS: Final = (
    Column("service", "SERVICE"),
    Column("method", "METHOD"),
    Column("key", "KEY"),
    Column("server", "SERVER"),
    Column("sessions", "SESSIONS"),
    Column("expires", "EXPIRES IN"),
)
WAITING: Final = (
    Column("service", "SERVICE"),
    Column("server", "SERVER"),
    Column("client", "CLIENT"),
    Column("user", "USER"),
    Column("waits", "WAITS"),
)
EVENTS: Final = (
    Column("at", "TIME"),
    Column("level", "LEVEL"),
    Column("event", "EVENT"),
    Column("service", "SERVICE"),
    Column("server", "SERVER"),
    Column("detail_text", "DETAIL"),
)

# ---- on a terminal: SERVICE is a heading, and what tells nothing is left out ---------------------------

_NONE: Final = (0, None, "", False)


def usable_style(row: Row) -> str:
    """Return the colour of how many servers can be used: none is an outage."""
    usable, total = row["servers_usable"], row["servers_total"]
    return "red" if total and not usable else "yellow" if usable < total else ""


SERVICES_SEEN: Final = (
    Column("name", "SERVICE"),
    Column("listen", "LISTEN"),
    Column("mode", "MODE"),
    Column("usable", "SERVERS", right=True, style=usable_style),
    Column("sessions", "SESSIONS", right=True),
    Column("queue", "QUEUE", right=True, plain=_NONE),
    Column("scheduler", "SCHEDULER", rank=1, fold=False),
)
SERVERS_SEEN: Final = (
    Column("name", "SERVER"),
    Column("address", "ADDRESS"),
    Column("health", "HEALTH"),
    Column("state_text", "STATE"),
    Column("sessions", "SESSIONS", right=True),
    Column("limit", "LIMIT", right=True, plain=_NONE, rank=3),
    Column("queue", "QUEUE", right=True, plain=_NONE, rank=2),
    Column("weight_text", "WEIGHT", right=True, plain=("100",), rank=4),
    Column("role", "ROLE", plain=("",), rank=6, text=True),
    Column("agent_text", "AGENT", plain=("-",), rank=5),
    Column("since", "SINCE", right=True, rank=1, fold=False),
    Column("sessions_total", "TOTAL", right=True, plain=_NONE, rank=7, fold=False),
    Column("check_text", "CHECK", right=True, plain=("-",), rank=8, fold=False),
    Column("why", "REASON", plain=("",), rank=9, text=True),
)
SESSIONS_SEEN: Final = (
    Column("id", "SESSION"),
    Column("user", "USER"),
    Column("client", "CLIENT"),
    Column("server", "SERVER"),
    Column("age", "AGE", right=True),
    Column("up", "UP", right=True, rank=2, fold=False),
    Column("down", "DOWN", right=True, rank=1, fold=False),
    Column("reason", "REASON", rank=3, fold=False),
    Column("relay", "RELAY", right=True, rank=4, fold=False),
)
BINDINGS_SEEN: Final = (
    Column("key", "KEY"),
    Column("server", "SERVER"),
    Column("method", "METHOD"),
    Column("sessions", "SESSIONS", right=True, rank=1),
    Column("expires", "EXPIRES IN", right=True),
)
WAITING_SEEN: Final = (
    Column("user", "USER"),
    Column("client", "CLIENT"),
    Column("server", "WAITS FOR"),
    Column("waits", "SINCE", right=True),
)
EVENTS_SEEN: Final = (
    Column("at", "TIME"),
    Column("level", "LEVEL"),
    Column("event", "EVENT"),
    Column("where", "WHERE", plain=("",)),
    Column("detail_text", "DETAIL", plain=("",), rank=1, text=True),
)


def service_cells(row: Row) -> dict[str, Any]:
    """Return a virtual service's row with what is shown of it."""
    return {**row, "usable": f"{row['servers_usable']} of {row['servers_total']}"}


def server_cells(row: Row) -> dict[str, Any]:
    """Return a real server's row with what is shown of it."""
    weight, effective = row["weight"], row["effective_weight"]
    return {
        **row,
        "since": ago_text(row["last_change"]),
        "weight_text": str(weight) if effective == weight else f"{effective:g} of {weight}",
        "agent_text": agent_text(row["agent"]),
        "state_text": row["state"] + (" (strict)" if row["strict"] else ""),
        "limit": row["max_connections"] or None,
        "role": "backup" if row["backup"] else "",
        "check_text": check_text(row.get("check")),
        "why": why(row),
    }


def session_cells(row: Row) -> dict[str, Any]:
    """Return a live session's row with what is shown of it."""
    return {
        **row,
        "age": ago_text(row["started"]),
        "up": bytes_text(row["bytes_up"]),
        "down": bytes_text(row["bytes_down"]),
    }


def binding_cells(row: Row) -> dict[str, Any]:
    """Return a binding's row with what is shown of it."""
    live = row["expires_in"] is None
    return {**row, "expires": "in use" if live else duration_text(row["expires_in"])}


def waiting_cells(row: Row) -> dict[str, Any]:
    """Return the row of a connection in the queue with what is shown of it."""
    return {**row, "server": row["server"] or "any server", "waits": ago_text(row["since"])}


def agent_text(agent: Mapping[str, Any] | None) -> str:
    """Return what the feedback agent says, in a few words."""
    if agent is None:
        return "-"
    if agent["heard_ago"] is None:
        return "not heard"
    if agent.get("stale"):
        return "stale"
    words = [f"{agent['percent']}%" if agent["weight"] is None else f"weight {agent['weight']}"]
    words += [agent["state"]] if agent["state"] != "online" else []
    words += [agent["health"]] if agent["health"] == "down" else []
    if agent["failures"]:
        words.append(f"(silent for {duration_text(agent['heard_ago'])})")
    return " ".join(words)


def check_text(check: Mapping[str, Any] | None) -> str:
    """Return how long the last health check took."""
    return "-" if not check or check.get("ms") is None else f"{check['ms']:.0f} ms"


def why(row: Row) -> str:
    """Return why a server is as it is, "" if it is as it should be: up, online, and nobody said a word."""
    spoken = operator_text(row.get("operator") or {})
    well = row["health"] == "up" and row["state"] == "online"
    least = counted(row["min_connections"], "session") if row.get("emptying") else ""
    full = f"was full, new users again at {least}" if least else ""
    return "; ".join(filter(None, ["" if well else str(row["reason"]), full, spoken]))


def operator_text(operator: Mapping[str, Any]) -> str:
    """Return who gave the operator's word; "" if there is none, or nobody knows.

    The word itself and its reason are in the row's reason, but for a weight: it keeps nobody away.
    """
    who = f"by {operator['actor']}" if operator.get("actor") else ""
    if operator.get("state", "online") != "online":
        return who
    if operator.get("weight") is None:
        return ""
    because = f"({operator['reason']})" if operator.get("reason") else ""
    return " ".join(filter(None, [f"weight {operator['weight']}", who, because]))
