"""``status``: the service on one screen, what is wrong first."""

from collections.abc import Iterator, Sequence
from typing import Any, Final

import click

from rdpbalancer.cli import columns, output, terminal
from rdpbalancer.cli.asking import ask, json_option
from rdpbalancer.cli.output import ago_text, counted
from rdpbalancer.cli.table import Line, Piece, Row, layout, shown, wrapped

# A screen: so many servers that are well are named, more are counted; so many that are not.
_NAMED_WELL: Final = 6
_NAMED_ILL: Final = 12


@click.command("status")
@json_option
@click.option("-q", "--quiet", is_flag=True, help="Print nothing; the exit status says whether it answers.")
@click.pass_context
def show_status(context: click.Context, *, as_json: bool, quiet: bool) -> None:
    """Show the service on one screen: what is wrong, its virtual services, its servers."""
    status = ask(context, "status")
    if as_json:
        output.print_json(status)
    elif quiet or context.obj["quiet"]:
        return
    elif terminal.is_terminal():
        terminal.print_lines(screen(status, width=terminal.width()))
    else:
        _print_plain(status)


def headline(status: Row) -> str:
    """Return the service in one sentence."""
    retiring = status.get("relays_retiring") or []
    moving = f" ({len(retiring)} retiring)" if retiring else ""
    return (
        f"rdpbalancer {status['version']} is {status['status']} (process {status['pid']}): "
        f"{counted(status['sessions'], 'session')}, {counted(len(status['relays']), 'relay')}{moving}, "
        f"router up {ago_text(status['router_started'])}"
    )


def screen(status: Row, *, width: int) -> Iterator[Line]:
    """Return the lines of the screen."""
    yield from wrapped(headline(status), width=width, indent=0)
    for warning in status.get("warnings") or []:
        yield from wrapped(warning_text(warning), width=width, indent=2, style="yellow")
    if not status["services"]:
        yield [Piece("no virtual services")]
    for service in status["services"]:
        yield []
        yield from service_lines(service, width=width)
        rows = [row for row in status["servers"] if row["service"] == service["name"]]
        yield from server_lines(rows, width=width)


def warning_text(warning: Row) -> str:
    """Return a warning: what is wrong and what to do, and for how long it has been so."""
    since = f" (for {ago_text(warning['since'])})" if warning.get("since") else ""
    return f"! {shown(warning['text'])}{since}"


def service_lines(service: Row, *, width: int) -> Iterator[Line]:
    """Return a virtual service: its name and addresses, and how it fares."""
    line, at = [Piece(shown(service["name"]), "strong"), Piece(f"  {service['mode']} on")], 0
    at = len(shown(service["name"])) + 5 + len(service["mode"])
    for number, address in enumerate(service["listen"]):
        text = shown(address) + ("," if number + 1 < len(service["listen"]) else "")
        if at + 1 + len(text) > width:
            yield line
            line, at = [Piece("   ")], 3
        line.append(Piece(f" {text}"))
        at += 1 + len(text)
    yield line
    usable = f"{service['servers_usable']} of {counted(service['servers_total'], 'server')} usable"
    queue = [Piece(f", {service['queue']} waiting", "yellow")] if service["queue"] else []
    yield [
        Piece("  "),
        Piece(usable, columns.usable_style(service)),
        Piece(f", {counted(service['sessions'], 'session')}"),
        *queue,
    ]


def server_lines(rows: Sequence[Row], *, width: int) -> Iterator[Line]:
    """Return the servers of one virtual service: the worst by name, those that are well counted if many."""
    ordered = sorted(rows, key=badness)
    ill = [row for row in ordered if badness(row) < _WELL]
    well = ordered[len(ill) :]
    named = ill[:_NAMED_ILL] + (well if len(well) <= _NAMED_WELL else [])
    if named:
        cells = list(map(columns.server_cells, named))
        plan = layout(cells, columns.SERVERS_SEEN, width=width, indent=2)
        yield plan.heading()
        for row in cells:
            yield from plan.row(row)
    if len(ill) > _NAMED_ILL:
        more = f"  and {len(ill) - _NAMED_ILL} more like these: rdpbalancer show servers"
        yield [Piece(more, "yellow")]
    if len(well) > _NAMED_WELL:
        yield [Piece(f"  {summary(well)}", "green")]


_WELL: Final = 5


def badness(row: Row) -> int:
    """Return how soon a server has to be looked at: 0 for one that is down and should not be, 5 for well."""
    if row["health"] == "down":
        return 0 if row["state"] == "online" else 3
    if row["health"] == "checking":
        return 1
    agent = row["agent"]
    limit = row["max_connections"]
    if row["queue"] or row.get("emptying") or (limit and row["sessions"] >= limit):
        return 2
    if row["state"] != "online" or not row["effective_weight"]:
        return 3
    if agent is not None and (agent["heard_ago"] is None or agent["failures"]):
        return 4
    return _WELL


def summary(rows: Sequence[Row]) -> str:
    """Return many servers that are well in a line: "197 servers up, 14-22 sessions each"."""
    parts = []
    for backup, noun in ((False, "server"), (True, "backup server")):
        some = [row["sessions"] for row in rows if bool(row["backup"]) is backup]
        if some:
            low, high = min(some), max(some)
            each = f"{low} to {high} sessions" if high > low else counted(low, "session")
            parts.append(f"{counted(len(some), noun)} up, {each} each")
    return "; ".join(parts)


def _print_plain(status: dict[str, Any]) -> None:
    print(headline(status))
    for warning in status.get("warnings") or []:
        print(f"warning: {shown(warning['text'])}")
    output.print_columns(map(columns.service_cells, status["services"]), columns.SERVICES)
    output.print_columns(map(columns.server_cells, status["servers"]), columns.SERVERS)


COMMANDS = [show_status]
