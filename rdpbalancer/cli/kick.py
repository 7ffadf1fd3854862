"""``kick`` and ``persist``: sessions and bindings."""

import sys
from typing import Any, Final

import click

from rdpbalancer.cli import output
from rdpbalancer.cli.asking import ask, given, json_option, reason_option, service_option
from rdpbalancer.cli.output import counted

# More users than these are asked about, once, if somebody sits there to answer.
_UNASKED: Final = 5


@click.command("kick")
@click.argument("session", required=False)
@click.option("--user", help="The sessions of this user.")
@click.option("--server", help="The sessions on this server.")
@click.option("--source", help="The sessions from this IP address or network.")
@service_option
@click.option("--all", "everybody", is_flag=True, help="All sessions there are.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask, however many they are.")
@reason_option
@json_option
@click.pass_context
def kick(
    context: click.Context,
    /,
    *,
    everybody: bool,
    yes: bool,
    reason: str | None,
    as_json: bool,
    **words: str | None,
) -> None:
    """End sessions: one by its id, or all that match every option.

    On a terminal it asks before it ends more than a few.
    """
    matching = given(**words)
    if bool(matching) is everybody:
        message = "name a SESSION, --user, --server, --service or --source; or --all, without any of them"
        raise click.UsageError(message)
    if not yes and sys.stdin.isatty() and "session" not in matching:
        _ask_first(context, matching)
    answer = ask(context, "kick", **matching, **given(all=everybody or None, reason=reason))
    if as_json:
        output.print_json(answer)
    elif not context.obj["quiet"]:
        output.say(f"{counted(answer['kicked'], 'session')} ended")
    if not answer["kicked"]:
        sys.exit(output.EXIT_FAILED)


def _ask_first(context: click.Context, matching: dict[str, Any]) -> None:
    many = ask(context, "sessions", **matching, limit=1)["total"]
    if many > _UNASKED and not click.confirm(f"End {many} sessions?", err=True):
        output.complain("no session was ended")
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
@reason_option
@json_option
@click.pass_context
def persist_move(
    context: click.Context, /, key: str, server: str, *, as_json: bool, **options: str | None
) -> None:
    """Send KEY (a user, or an address) to SERVER from its next connection on."""
    answer = ask(context, "persist-move", key=key, server=server, **given(**options))
    if as_json:
        output.print_json(answer)
    elif not context.obj["quiet"]:
        output.say(moved_text(key, answer))


def moved_text(key: str, answer: dict[str, Any]) -> str:
    """Return what was done; of a key that nobody had, that too, and the keys that may have been meant."""
    goes = f"{key} goes to {answer['server']} from its next connection on"
    if answer["moved"]:
        return goes
    near = f"; there are bindings of {', '.join(answer['near'])}" if answer["near"] else ""
    return f"no binding of that name; one was made: {goes}{near}"


@persist.command("delete")
@click.argument("key")
@method_option
@service_option
@reason_option
@json_option
@click.pass_context
def persist_delete(context: click.Context, /, key: str, *, as_json: bool, **options: str | None) -> None:
    """Forget where KEY (a user, or an address) belongs."""
    answer = ask(context, "persist-delete", key=key, **given(**options))
    if as_json:
        output.print_json(answer)
    elif not context.obj["quiet"]:
        output.say(f"{counted(answer['deleted'], 'binding')} of {key} deleted")


COMMANDS = [kick, persist]
