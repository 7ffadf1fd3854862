"""``show``: the lists of what the running service knows."""

import contextlib
import itertools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import click

from rdpbalancer.cli import columns, output, terminal
from rdpbalancer.cli.asking import ask, given, json_option, rows, service_option
from rdpbalancer.cli.events import event_cells, following
from rdpbalancer.cli.server_page import facts
from rdpbalancer.cli.state import Duration
from rdpbalancer.cli.status import badness
from rdpbalancer.cli.table import Column, Row

SortKey = Callable[[Row], Any]

_SERVERS_BY: Final[Mapping[str, SortKey]] = {
    "name": lambda row: row["name"],
    "worst": badness,
    "sessions": lambda row: -row["sessions"],
    "since": lambda row: -row["last_change"],
}
_SESSIONS_BY: Final[Mapping[str, SortKey]] = {
    "age": lambda row: row["started"],
    "user": lambda row: (row["user"] or "").lower(),
    "client": lambda row: row["client"],
    "server": lambda row: row["server"],
    "bytes": lambda row: -(row["bytes_up"] + row["bytes_down"]),
}
_BINDINGS_BY: Final[Mapping[str, SortKey]] = {
    "key": lambda row: row["key"],
    "server": lambda row: (row["server"], row["key"]),
    # What is in use expires last.
    "expires": lambda row: (row["expires_in"] is None, row["expires_in"] or 0.0),
}

wide_option = click.option("--wide", is_flag=True, help="Leave no column out: fold what has no room.")


def _sort_option(keys: Iterable[str]) -> Callable[[Any], Any]:
    return click.option("--sort", type=click.Choice(list(keys)), help="In this order.")


@click.group("show")
def show() -> None:
    """Show services, servers, sessions, persistence, the queue or events."""


@show.command("services")
@json_option
@wide_option
@click.pass_context
def show_services(context: click.Context, *, as_json: bool, wide: bool) -> None:
    """Show the virtual services."""
    found = ask(context, "services")
    if as_json:
        output.print_json(found)
        return
    cells = map(columns.service_cells, found)
    _print(cells, columns.SERVICES, columns.SERVICES_SEEN, empty="no virtual services", wide=wide)


@show.command("servers")
@json_option
@service_option
@_sort_option(_SERVERS_BY)
@wide_option
@click.pass_context
def show_servers(
    context: click.Context, service: str | None, sort: str | None, *, as_json: bool, wide: bool
) -> None:
    """Show the real servers."""
    found = _sorted(ask(context, "servers", **given(service=service)), _SERVERS_BY, sort)
    if as_json:
        output.print_json(found)
        return
    cells = map(columns.server_cells, found)
    _print(cells, columns.SERVERS, columns.SERVERS_SEEN, empty="no real servers", wide=wide, by_service=True)


@show.command("server")
@click.argument("server")
@json_option
@service_option
@click.pass_context
def show_server(context: click.Context, server: str, service: str | None, *, as_json: bool) -> None:
    """Show all that is known of one real server."""
    from rdpbalancer.control.client import CommandRefusedError

    found = [row for row in ask(context, "servers", **given(service=service)) if _is(row, server)]
    if not found:
        raise CommandRefusedError(
            "unknown-server", f"there is no server {server}; `rdpbalancer show servers` lists them"
        )
    if as_json:
        output.print_json(found)
        return
    for number, row in enumerate(found):
        if number:
            print()
        output.print_facts(facts(row))


def _is(row: Row, server: str) -> bool:
    return server in (row["name"], f"{row['service']}/{row['name']}")


@show.command("sessions")
@json_option
@service_option
@click.option("--server", help="Only on this server.")
@click.option("--user", help="Only of this user.")
@click.option("--source", help="Only from this address or network.")
@_sort_option(_SESSIONS_BY)
@wide_option
@click.pass_context
def show_sessions(
    context: click.Context, /, *, as_json: bool, wide: bool, sort: str | None, **filters: str | None
) -> None:
    """Show the live sessions, the oldest first."""
    found = _sorted(rows(context, "sessions", **given(**filters)), _SESSIONS_BY, sort)
    if as_json:
        output.print_json_rows(found)
        return
    cells = map(columns.session_cells, found)
    _print(cells, columns.SESSIONS, columns.SESSIONS_SEEN, empty="no sessions", wide=wide, by_service=True)


@show.command("persistence")
@json_option
@service_option
@click.option("--server", help="Only to this server.")
@click.option("--key", help="Only keys (users, addresses) that contain this.")
@click.option("--method", type=click.Choice(["rdp-cookie", "source-ip"]), help="Only keys of this kind.")
@_sort_option(_BINDINGS_BY)
@click.pass_context
def show_persistence(
    context: click.Context, /, *, as_json: bool, sort: str | None, **filters: str | None
) -> None:
    """Show which user (or address) is bound to which server."""
    found = _sorted(rows(context, "persistence", **given(**filters)), _BINDINGS_BY, sort)
    if as_json:
        output.print_json_rows(found)
        return
    cells = map(columns.binding_cells, found)
    _print(cells, columns.BINDINGS, columns.BINDINGS_SEEN, empty="no bindings", by_service=True)


@show.command("queue")
@json_option
@service_option
@click.pass_context
def show_queue(context: click.Context, service: str | None, *, as_json: bool) -> None:
    """Show who waits for a place on a server."""
    found = rows(context, "queue", **given(service=service))
    if as_json:
        output.print_json_rows(found)
        return
    cells = map(columns.waiting_cells, found)
    _print(cells, columns.WAITING, columns.WAITING_SEEN, empty="nobody waits", by_service=True)


@show.command("events")
@json_option
@service_option
@click.option("--server", help="Only of this server.")
@click.option(
    "--level", type=click.Choice(["info", "warning", "error"]), help="Only of this level and above."
)
@click.option("--since", "since_s", type=Duration(), help="Only as old as this, as in 10m.")
@click.option("-f", "--follow", is_flag=True, help="Go on with what happens, until Ctrl-C.")
@click.pass_context
def show_events(
    context: click.Context,
    /,
    *,
    as_json: bool,
    since_s: float | None,
    follow: bool,
    **filters: str | None,
) -> None:
    """Show what happened lately to servers, processes and the configuration."""
    # An event's number is the time at which the service heard of it, in milliseconds.
    since = None if since_s is None else int((time.time() - since_s) * 1000)
    # Those of the supervisor are heard of a moment later than they happen.
    found = sorted(
        rows(context, "events", **given(since=since, **filters)), key=lambda row: float(row["time"])
    )
    if not follow:
        _print_events(found, as_json=as_json)
        return
    with contextlib.suppress(KeyboardInterrupt):
        _print_events(following(context, found, **given(**filters)), as_json=as_json, first=len(found))


def _print_events(events: Iterable[dict[str, Any]], *, as_json: bool, first: int | None = None) -> None:
    """Print events. `first`: so many are there at once, more will come, for ever."""
    endless = first is not None
    if as_json:
        output.print_json_lines(events) if endless else output.print_json_rows(events)
        return
    on_terminal = terminal.is_terminal()
    cells = (event_cells(row, now=time.time(), short=on_terminal) for row in events)
    if not on_terminal:
        output.print_columns(cells, columns.EVENTS, flush=endless)
        return
    # Of what comes nobody knows which columns it will use.
    seen = [replace(column, plain=None) for column in columns.EVENTS_SEEN] if endless else columns.EVENTS_SEEN
    at_once = output.ROWS_AT_ONCE if first is None else max(1, first)
    output.print_table(cells, seen, empty="no events", rows_at_once=at_once)


def _sorted(
    found: Iterable[dict[str, Any]], keys: Mapping[str, SortKey], by: str | None
) -> Iterable[dict[str, Any]]:
    """Return rows in an order; in the service's own as they come."""
    return found if by is None else sorted(found, key=keys[by])


def _print(
    cells: Iterable[Row],
    plain: Sequence[Column],
    seen: Sequence[Column],
    *,
    empty: str,
    wide: bool = False,
    by_service: bool = False,
) -> None:
    if not terminal.is_terminal():
        output.print_columns(cells, plain)
        return
    heading_of = _service_of if by_service else None
    if by_service:
        cells = _together(cells)
    output.print_table(
        cells, seen, empty=empty, everything=wide, heading_of=heading_of, rows_at_once=_TOGETHER
    )


def _service_of(row: Row) -> str:
    return str(row["service"])


def _together(cells: Iterable[Row]) -> Iterable[Row]:
    """Return rows by virtual service, within a screenful of pages: their order is kept within each."""
    coming = iter(cells)
    while chunk := list(itertools.islice(coming, _TOGETHER)):
        yield from sorted(chunk, key=_service_of)


# More rows than anybody reads on a terminal; what is beyond them gets its headings again.
_TOGETHER: Final = 20 * output.ROWS_AT_ONCE
COMMANDS = [show]
