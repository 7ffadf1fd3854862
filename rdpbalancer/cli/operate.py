"""``reload`` and ``upgrade``: another configuration, another version, without a stop."""

import os
import sys
import time
from pathlib import Path
from typing import Any

import click

from rdpbalancer.cli import output
from rdpbalancer.cli.asking import ask, given, json_option, reason_option
from rdpbalancer.cli.changes import changes_text

_POLL_S = 0.2
# Names that do not resolve take their time, and so do relays that have to be started.
_RELOAD_S = 60.0
# Preflight, restart of the router and the move of the sessions, on a busy machine.
_UPGRADE_S = 90.0


def _socket_of(config: Path, otherwise: Path) -> Path:
    """Return the control socket of the service that runs with this file.

    A file with a mistake does not say where it is. It is the reload that is to refuse it, so that log and
    status know. Raises ConfigurationErrors if the service is not at its usual place either.
    """
    from rdpbalancer.errors import ConfigurationError
    from rdpbalancer.settings.load import load

    try:
        return load(config, environ=os.environ).global_.runtime_dir / "control.sock"
    except ConfigurationError:
        if otherwise.exists():
            return otherwise
        raise


@click.command("reload")
@click.option(
    "-c",
    "--config",
    type=click.Path(path_type=Path, dir_okay=False, readable=False),
    help="Reload the service that runs with this file, wherever its runtime_dir is.",
)
@click.option("--wait", is_flag=True, help="Return when every new server has been checked.")
@click.option("--dry-run", is_flag=True, help="Print what would change, and change nothing.")
@reason_option
@json_option
@click.pass_context
def reload_config(
    context: click.Context,
    config: Path | None,
    *,
    wait: bool,
    dry_run: bool,
    reason: str | None,
    as_json: bool,
) -> None:
    """Read the configuration anew and apply what differs, whole or not at all."""
    if dry_run and (wait or reason is not None):
        raise click.UsageError(
            "--dry-run changes nothing: there is nothing to wait for, and nothing to explain"
        )
    if config is not None:
        context.obj["socket"] = _socket_of(config, context.obj["socket"])
    how = {"dry_run": True} if dry_run else given(reason=reason)
    changes = ask(context, "reload", timeout_s=_RELOAD_S, **how)
    while wait and any(row["health"] == "checking" for row in ask(context, "servers")):
        time.sleep(_POLL_S)
    if as_json:
        output.print_json(changes)
    elif dry_run:
        output.say(f"dry run, nothing was changed; {changes_text(changes)}")
    elif not context.obj["quiet"]:
        output.say(f"reloaded; {changes_text(changes)}")


@click.command("upgrade")
@click.option("--wait", is_flag=True, help="Return when every session has moved to the new code.")
@reason_option
@json_option
@click.pass_context
def upgrade(context: click.Context, *, wait: bool, reason: str | None, as_json: bool) -> None:
    """Run the newly installed code. No session is dropped, no connection refused."""
    before = ask(context, "upgrade", timeout_s=_UPGRADE_S, **given(reason=reason))
    status = _wait_upgraded(context, before["generation"]) if wait else None
    if as_json:
        output.print_json({"from": before, "to": status})
    elif not context.obj["quiet"] and status is None:
        print("upgrade begun; `rdpbalancer status` shows the version that runs")
    elif not context.obj["quiet"] and status is not None:
        moved = output.counted(status["sessions"], "session has", "sessions have")
        output.say(f"version {status['version']} runs; {moved} moved")


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
            reverted = status.get("upgrade_reverted")
            if status["generation"] > generation and reverted and status["status"] == "running":
                output.complain(
                    f"version {reverted['version']} was left again, and version {status['version']} goes on"
                    f" with all sessions: {reverted['detail']}"
                )
                sys.exit(output.EXIT_FAILED)
            if status["generation"] > generation and status["status"] == "running" and not left:
                return status
            giving = output.counted(left, "relay is giving its", "relays are giving their")
            progress = f"{giving} sessions away" if left else "the router is being replaced"
        if progress != told and not context.obj["quiet"] and sys.stderr.isatty():
            print(f"{progress} ...", file=sys.stderr)
        told = progress
        time.sleep(_POLL_S)
    output.complain("timed out: the upgrade goes on, and `rdpbalancer status` shows how far it is")
    sys.exit(output.EXIT_WAIT_RAN_OUT)


COMMANDS = [reload_config, upgrade]
