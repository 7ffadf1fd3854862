"""``drain``, ``halt``, ``online``, ``weight``, ``kick``, ``persist``, ``reload``: the operator's verbs."""

import sys
import time
from collections.abc import Callable
from typing import Any

import click

from rdpbalancer.cli import output
from rdpbalancer.cli.asking import ask, json_option, service_option

_POLL_S = 0.2
# Names that do not resolve take their time, and so do relays that have to be started.
_RELOAD_S = 60.0
# Preflight, restart of the router and the move of the sessions, on a busy machine.
_UPGRADE_S = 90.0


class Duration(click.ParamType[float]):
    """A duration as in the configuration: 500ms, 30s, 5m, 1h."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return seconds."""
        from rdpbalancer.settings.units import parse_duration_s

        if isinstance(value, float):
            return value
        try:
            return parse_duration_s(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


def _state_command(state: str, text: str) -> click.Command:
    """Make the command that sets a server's state; drain and halt can wait for it to be empty."""

    @click.pass_context
    def command(context: click.Context, /, server: str, **options: Any) -> None:
        deadline_s, wait = options.pop("deadline", None), options.pop("wait", False)
        as_json, service = options.pop("as_json"), options["service"]
        kick = options.pop("kick", False)
        answer = ask(
            context, "set-state", server=server, state=state, kick=kick and deadline_s is None, **options
        )
        done, named = True, [row["server"] for row in answer["servers"]]
        if wait or deadline_s is not None:
            done = _wait_empty(context, named, service, deadline_s)
            if not done and kick:
                answer = ask(context, "set-state", server=server, state=state, kick=True, **options)
                done = _wait_empty(context, named, service, 10.0)
            for row in answer["servers"]:
                row["sessions"] = _sessions_on(context, [row["server"]], service)
        _report(context, answer, state, as_json=as_json)
        if not done:
            output.complain("sessions are still there; the wait ran out")
            sys.exit(output.EXIT_WAIT_RAN_OUT)

    command.__doc__ = text
    made: Callable[..., Any] = click.argument("server")(service_option(json_option(command)))
    if state != "online":
        made = click.option("--kick", is_flag=True, help="End the sessions: now, or at the --deadline.")(made)
        made = click.option("--wait", is_flag=True, help="Return when the server has no session left.")(made)
        made = click.option("--deadline", type=Duration(), help="Wait at most this long, as in 30m.")(made)
    if state == "drain":
        strict = "Send bound users elsewhere too; only routing tokens are still honoured."
        made = click.option("--strict", is_flag=True, help=strict)(made)
    return click.command(state)(made)


def _report(context: click.Context, answer: dict[str, Any], state: str, *, as_json: bool) -> None:
    if as_json:
        output.print_json(answer)
    elif not context.obj["quiet"]:
        kicked = f", {answer['kicked']} ended" if answer["kicked"] else ""
        left = output.counted(sum(row["sessions"] for row in answer["servers"]), "session")
        print(f"{', '.join(row['server'] for row in answer['servers'])}: {state} ({left}{kicked})")


def _wait_empty(
    context: click.Context, servers: list[str], service: str | None, deadline_s: float | None
) -> bool:
    until_at = None if deadline_s is None else time.monotonic() + deadline_s
    while True:
        if not _sessions_on(context, servers, service):
            return True
        if until_at is not None and time.monotonic() >= until_at:
            return False
        time.sleep(_POLL_S)


def _sessions_on(context: click.Context, servers: list[str], service: str | None) -> int:
    rows = ask(context, "servers", service=service)
    return sum(row["sessions"] for row in rows if f"{row['service']}/{row['name']}" in servers)


@click.command("weight")
@click.argument("server")
@click.argument("weight", type=click.IntRange(0, 256), required=False)
@click.option("--reset", is_flag=True, help="Back to the configured weight.")
@service_option
@json_option
@click.pass_context
def set_weight(
    context: click.Context,
    server: str,
    weight: int | None,
    service: str | None,
    *,
    reset: bool,
    as_json: bool,
) -> None:
    """Set a server's weight at run time, 0 to 256. It is kept over restarts."""
    if (weight is None) is not reset:
        message = "give a weight, or --reset"
        raise click.UsageError(message)
    answer = ask(context, "set-weight", server=server, weight=weight, service=service)
    if as_json:
        output.print_json(answer)
    elif not context.obj["quiet"]:
        print(f"{', '.join(answer['servers'])}: weight {'as configured' if weight is None else weight}")


@click.command("kick")
@click.argument("session", required=False)
@click.option("--user", help="The sessions of this user.")
@click.option("--server", help="The sessions on this server.")
@click.option("--source", help="The sessions from this IP address.")
@json_option
@click.pass_context
def kick(
    context: click.Context,
    session: str | None,
    user: str | None,
    server: str | None,
    source: str | None,
    *,
    as_json: bool,
) -> None:
    """End sessions: one by its id, or all that match the options."""
    answer = ask(context, "kick", session=session, user=user, server=server, source=source)
    if as_json:
        output.print_json(answer)
    elif not context.obj["quiet"]:
        print(f"{output.counted(answer['kicked'], 'session')} ended")
    if not answer["kicked"]:
        sys.exit(output.EXIT_FAILED)


@click.group("persist")
def persist() -> None:
    """Move or delete the binding of a user (or a source address)."""


method_option = click.option(
    "--method", type=click.Choice(["rdp-cookie", "source-ip"]), help="The kind of key; found by itself."
)


@persist.command("move")
@click.argument("key")
@click.argument("server")
@method_option
@service_option
@click.pass_context
def persist_move(
    context: click.Context, key: str, server: str, method: str | None, service: str | None
) -> None:
    """Send KEY (a user, or an address) to SERVER from its next connection on."""
    answer = ask(context, "persist-move", key=key, server=server, service=service, method=method)
    if not context.obj["quiet"]:
        print(f"{key} goes to {answer['server']} from its next connection on")


@persist.command("delete")
@click.argument("key")
@method_option
@service_option
@click.pass_context
def persist_delete(context: click.Context, key: str, method: str | None, service: str | None) -> None:
    """Forget where KEY (a user, or an address) belongs."""
    answer = ask(context, "persist-delete", key=key, service=service, method=method)
    if not context.obj["quiet"]:
        print(f"{output.counted(answer['deleted'], 'binding')} of {key} deleted")


@click.command("reload")
@click.option("--wait", is_flag=True, help="Return when every new server has been checked.")
@json_option
@click.pass_context
def reload_config(context: click.Context, *, wait: bool, as_json: bool) -> None:
    """Read the configuration anew and apply what differs, whole or not at all."""
    changes = ask(context, "reload", timeout_s=_RELOAD_S)
    while wait and any(row["health"] == "checking" for row in ask(context, "servers")):
        time.sleep(_POLL_S)
    if as_json:
        output.print_json(changes)
    elif not context.obj["quiet"]:
        said = [f"{name.replace('_', ' ')}: {', '.join(names)}" for name, names in changes.items() if names]
        print("reloaded; " + ("; ".join(said) or "nothing in the farm differs"))


@click.command("upgrade")
@click.option("--wait", is_flag=True, help="Return when every session has moved to the new code.")
@json_option
@click.pass_context
def upgrade(context: click.Context, *, wait: bool, as_json: bool) -> None:
    """Run the newly installed code. No session is dropped, no connection refused."""
    before = ask(context, "upgrade", timeout_s=_UPGRADE_S)
    status = _wait_upgraded(context, before["generation"]) if wait else None
    if as_json:
        output.print_json({"from": before, "to": status})
    elif not context.obj["quiet"] and status is None:
        print("upgrade begun; `rdpbalancer status` shows the version that runs")
    elif not context.obj["quiet"] and status is not None:
        print(f"version {status['version']} runs; {status['sessions']} sessions have moved")


def _wait_upgraded(context: click.Context, generation: int) -> dict[str, Any]:
    """Wait until a router of the next generation answers and no relay of the old one is left."""
    from rdpbalancer.control.client import UnreachableError

    until_at, told = time.monotonic() + _UPGRADE_S, ""
    while time.monotonic() < until_at:
        try:
            status: dict[str, Any] = ask(context, "status")
        except UnreachableError:
            progress = "the new code is starting"
        else:
            left = len(status["relays_retiring"])
            if status["generation"] > generation and status["status"] == "running" and not left:
                return status
            progress = f"{left} relays are giving their sessions away" if left else "the router is changing"
        if progress != told and not context.obj["quiet"] and sys.stderr.isatty():
            print(f"{progress} ...", file=sys.stderr)
        told = progress
        time.sleep(_POLL_S)
    output.complain("the upgrade has not come to its end; `rdpbalancer status` shows how far it is")
    sys.exit(output.EXIT_WAIT_RAN_OUT)


COMMANDS = [
    _state_command("drain", "Give SERVER no new users; those who are bound to it still come back."),
    _state_command("halt", "Give SERVER nobody at all; live sessions stay."),
    _state_command("online", "Give SERVER users again."),
    set_weight,
    kick,
    persist,
    reload_config,
    upgrade,
]
