"""``status`` and ``show``: what the running service knows."""

import time
from typing import Any

import click

from rdpbalancer.cli import output
from rdpbalancer.cli.output import Column

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
service_option = click.option("--service", help="Only this virtual service.")

SERVICES = (
    Column("name", "SERVICE"),
    Column("listen", "LISTEN"),
    Column("mode", "MODE"),
    Column("scheduler", "SCHEDULER"),
    Column("sessions", "SESSIONS", right=True),
    Column("queue", "QUEUE", right=True),
    Column("usable", "SERVERS", right=True),
)
SERVERS = (
    Column("service", "SERVICE"),
    Column("name", "SERVER"),
    Column("address", "ADDRESS"),
    Column("health", "HEALTH"),
    Column("state", "STATE"),
    Column("sessions", "SESSIONS", right=True),
    Column("weight_text", "WEIGHT", right=True),
    Column("queue", "QUEUE", right=True),
    Column("agent_text", "AGENT"),
    Column("since", "SINCE", right=True),
    Column("reason", "REASON"),
)
SESSIONS = (
    Column("id", "SESSION"),
    Column("user", "USER"),
    Column("client", "CLIENT"),
    Column("service", "SERVICE"),
    Column("server", "SERVER"),
    Column("reason", "REASON"),
    Column("age", "AGE", right=True),
    Column("up", "UP", right=True),
    Column("down", "DOWN", right=True),
    Column("relay", "RELAY", right=True),
)
BINDINGS = (
    Column("service", "SERVICE"),
    Column("method", "METHOD"),
    Column("key", "KEY"),
    Column("server", "SERVER"),
    Column("sessions", "SESSIONS", right=True),
    Column("expires", "EXPIRES IN", right=True),
)
EVENTS = (
    Column("at", "TIME"),
    Column("level", "LEVEL"),
    Column("event", "EVENT"),
    Column("service", "SERVICE"),
    Column("server", "SERVER"),
    Column("detail", "DETAIL"),
)


def ask(context: click.Context, verb: str, *, timeout_s: float = 10.0, **params: Any) -> Any:
    """Ask the running service."""
    from rdpbalancer.control.client import Client

    with Client(context.obj["socket"], timeout_s=timeout_s) as client:
        return client.call(verb, **params)


def ask_rows(context: click.Context, verb: str, **params: Any) -> list[dict[str, Any]]:
    """Ask the running service for all rows of a list, page by page."""
    from rdpbalancer.control.client import Client

    wanted = {name: value for name, value in params.items() if value is not None}
    with Client(context.obj["socket"]) as client:
        return list(client.pages(verb, **wanted))


@click.command("status")
@json_option
@click.option("-q", "--quiet", is_flag=True, help="Print nothing; the exit status says whether it answers.")
@click.pass_context
def show_status(context: click.Context, *, as_json: bool, quiet: bool) -> None:
    """Show the service on one screen."""
    status = ask(context, "status")
    if as_json:
        output.print_json(status)
        return
    if quiet or context.obj["quiet"]:
        return
    print(
        f"rdpbalancer is {status['status']} (process {status['pid']}): "
        f"{output.counted(status['sessions'], 'session')}, {output.counted(len(status['relays']), 'relay')},"
        f" router up {output.ago_text(status['router_started'])}"
    )
    _print_services(status["services"])
    _print_servers(status["servers"])


@click.group("show")
def show() -> None:
    """Show services, servers, sessions, persistence or events."""


@show.command("services")
@json_option
@click.pass_context
def show_services(context: click.Context, *, as_json: bool) -> None:
    """Show the virtual services."""
    rows = ask(context, "services")
    output.print_json(rows) if as_json else _print_services(rows)


@show.command("servers")
@json_option
@service_option
@click.pass_context
def show_servers(context: click.Context, service: str | None, *, as_json: bool) -> None:
    """Show the real servers."""
    rows = ask(context, "servers", service=service)
    output.print_json(rows) if as_json else _print_servers(rows)


@show.command("sessions")
@json_option
@service_option
@click.option("--server", help="Only on this server.")
@click.option("--user", help="Only of this user.")
@click.pass_context
def show_sessions(
    context: click.Context, service: str | None, server: str | None, user: str | None, *, as_json: bool
) -> None:
    """Show the live sessions."""
    rows = ask_rows(context, "sessions", service=service, server=server, user=user)
    if as_json:
        output.print_json(rows)
        return
    for row in rows:
        row["age"] = output.ago_text(row["started"])
        row["up"], row["down"] = output.bytes_text(row["bytes_up"]), output.bytes_text(row["bytes_down"])
    output.print_table(rows, SESSIONS, empty="no sessions")


@show.command("persistence")
@json_option
@service_option
@click.pass_context
def show_persistence(context: click.Context, service: str | None, *, as_json: bool) -> None:
    """Show which user (or address) is bound to which server."""
    rows = ask_rows(context, "persistence", service=service)
    if as_json:
        output.print_json(rows)
        return
    for row in rows:
        live = row["expires_in"] is None
        row["expires"] = "in use" if live else output.duration_text(row["expires_in"])
    output.print_table(rows, BINDINGS, empty="no bindings")


@show.command("events")
@json_option
@click.pass_context
def show_events(context: click.Context, *, as_json: bool) -> None:
    """Show what happened lately to servers, relays and the configuration."""
    rows = sorted(ask_rows(context, "events"), key=lambda row: float(row["time"]))
    if as_json:
        output.print_json(rows)
        return
    for row in rows:
        row["at"] = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(row["time"]))
    output.print_table(rows, EVENTS, empty="no events")


def _print_services(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        row["usable"] = f"{row['servers_usable']} of {row['servers_total']}"
    output.print_table(rows, SERVICES, empty="no virtual services")


def _print_servers(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        row["since"] = output.ago_text(row["last_change"])
        weight, effective = row["weight"], row["effective_weight"]
        row["weight_text"] = str(weight) if effective == weight else f"{effective:g} of {weight}"
        row["agent_text"] = _agent_text(row["agent"])
        row["state"] += " (strict)" if row["strict"] else ""
    output.print_table(rows, SERVERS, empty="no real servers")


def _agent_text(agent: dict[str, Any] | None) -> str:
    if agent is None:
        return "-"
    if agent["heard_ago"] is None:
        return "not heard"
    if agent.get("stale"):
        return "stale"
    words = [f"{agent['percent']}%" if agent["weight"] is None else f"weight {agent['weight']}"]
    words += [agent["state"]] if agent["state"] != "online" else []
    words += [agent["health"]] if agent["health"] == "down" else []
    return " ".join(words)


COMMANDS = [show_status, show]
