"""``show server NAME``: all that is known of one real server, a line a fact."""

from collections.abc import Iterator, Mapping
from typing import Any

from rdpbalancer.cli.columns import agent_text
from rdpbalancer.cli.output import ago_text, bytes_text, counted, duration_text
from rdpbalancer.cli.table import Row


def facts(row: Row) -> Iterator[tuple[str, str]]:
    """Yield what is known of a server: a heading, and a text."""
    yield "server", f"{row['service']}/{row['name']}"
    yield "address", _address(row)
    if row.get("token_addresses"):
        yield "token addresses", ", ".join(row["token_addresses"])
    yield "health", f"{row['health']}, last change {ago_text(row['last_change'])} ago"
    if check := row.get("check"):
        yield "last check", f"{check['detail']} ({check['ms']:g} ms, {duration_text(check['ago'])} ago)"
    yield "failed checks", str(row["checks_failed"])
    yield "state", row["state"] + (" (strict)" if row["strict"] else "")
    if said := _operator(row.get("operator") or {}):
        yield "operator", said
    if row["agent"] is not None:
        yield "agent", _agent(row["agent"])
    yield "reason", row["reason"] or "-"
    yield "weight", _weight(row)
    yield "role", "backup" if row["backup"] else "ordinary"
    limit = row["max_connections"]
    yield "sessions", f"{row['sessions']} of at most {limit}" if limit else f"{row['sessions']}, no limit"
    if least := row.get("min_connections"):
        now = "it has been full and waits for that" if row["emptying"] else "not full since"
        yield "new users", f"again at {counted(least, 'session')}, once full; {now}"
    yield "waiting", str(row["queue"])
    if "sessions_total" in row:
        traffic = f"{bytes_text(row['bytes_up'])} up, {bytes_text(row['bytes_down'])} down"
        yield "since start", f"{counted(row['sessions_total'], 'session')}, {traffic}"


def _address(row: Row) -> str:
    address = str(row["address"])
    others = [each for each in row.get("resolved", []) if each not in address]
    return f"{address} ({', '.join(others)})" if others else address


def _operator(operator: Mapping[str, Any]) -> str:
    if not operator.get("since"):
        return ""
    words = [operator["state"] + (" --strict" if operator["strict"] else "")]
    words += [f"weight {operator['weight']}"] if operator["weight"] is not None else []
    by = f" by {operator['actor']}" if operator["actor"] else ""
    because = f": {operator['reason']}" if operator["reason"] else ""
    return f"{', '.join(words)}{by}, {ago_text(operator['since'])} ago{because}"


def _agent(agent: Mapping[str, Any]) -> str:
    said = agent_text(agent)
    if agent["max_connections"] is not None:
        said += f", at most {counted(agent['max_connections'], 'session')}"
    if agent["heard_ago"] is not None:
        said += f", heard {duration_text(agent['heard_ago'])} ago"
    return said + (f": {agent['reason']}" if agent["reason"] else "")


def _weight(row: Row) -> str:
    weight, effective = row["weight"], row["effective_weight"]
    return str(weight) if weight == effective else f"{weight}, now {effective:g}"
