"""``run``, ``check``, ``schema``: the service itself and its configuration."""

import os
import sys
from pathlib import Path

import click

from rdpbalancer.cli import output

DEFAULT_CONFIG = Path("/etc/rdpbalancer/rdpbalancer.yaml")

config_option = click.option(
    "-c",
    "--config",
    "config",
    type=click.Path(path_type=Path, dir_okay=False),
    default=DEFAULT_CONFIG,
    show_default=True,
    help="The configuration file; conf.d/*.yaml beside it belongs to it.",
)


@click.command("run")
@config_option
def run_service(config: Path) -> None:
    """Run the service in the foreground, until SIGTERM or Ctrl-C."""
    import setproctitle

    from rdpbalancer.runtime.loop import run
    from rdpbalancer.runtime.supervisor import serve

    setproctitle.setproctitle("rdpbalancer: supervisor")
    run(serve(config.absolute()))


@click.command("check")
@config_option
@click.pass_context
def check_config(context: click.Context, config: Path) -> None:
    """Validate a configuration: every error at once, each with its place."""
    from rdpbalancer.settings.load import load

    settings = load(config, environ=os.environ)
    servers = sum(len(service.real_servers) for service in settings.virtual_services)
    if not context.obj["quiet"]:
        print(f"{config}: good ({len(settings.virtual_services)} virtual services, {servers} real servers)")


@click.command("schema")
def print_schema() -> None:
    """Print the JSON schema of the configuration, for editors."""
    from rdpbalancer.settings.schema import json_schema

    output.print_json(json_schema())
    sys.stdout.flush()


COMMANDS = [run_service, check_config, print_schema]
