"""``run``, ``check``, ``schema``: the service itself and its configuration."""

import os
import sys
from pathlib import Path

import click
from click.core import ParameterSource

from rdpbalancer.cli import output
from rdpbalancer.cli.output import counted

DEFAULT_CONFIG = Path("/etc/rdpbalancer/rdpbalancer.yaml")
config_option = click.option(
    "-c",
    "--config",
    "config",
    # Whether it can be read is said with the reason and exit status of the other mistakes.
    type=click.Path(path_type=Path, dir_okay=False, readable=False),
    default=DEFAULT_CONFIG,
    show_default=True,
    help="The configuration file; conf.d/*.yaml beside it belongs to it.",
)


@click.command("run")
@config_option
def run_service(config: Path) -> None:
    """Run the service in the foreground, until SIGTERM or Ctrl-C."""
    import setproctitle

    from rdpbalancer.errors import ConfigurationError, RdpBalancerError
    from rdpbalancer.runtime.loop import run
    from rdpbalancer.runtime.service import serve

    setproctitle.setproctitle("rdpbalancer: supervisor")
    try:
        run(serve(config.absolute()))
    except RdpBalancerError as error:
        if error.code == "configuration":
            raise
        output.complain(f"error: {error.code}: {error}")
        ours = isinstance(error, ConfigurationError) and error.code not in output.PASSING
        sys.exit(output.EXIT_CONFIGURATION if ours else output.EXIT_FAILED)


@click.command("check")
@click.argument("file", required=False, type=click.Path(path_type=Path, dir_okay=False, readable=False))
@config_option
@click.pass_context
def check_config(context: click.Context, file: Path | None, config: Path) -> None:
    """Validate a configuration, FILE or that of --config: every error at once, each with its place."""
    from rdpbalancer.settings.load import load

    if file is not None:
        if context.get_parameter_source("config") is not ParameterSource.DEFAULT:
            raise click.UsageError(f"one configuration at a time: {file}, or --config {config}")
        config = file
    settings = load(config, environ=os.environ)
    servers = sum(len(service.real_servers) for service in settings.virtual_services)
    if not context.obj["quiet"]:
        services = counted(len(settings.virtual_services), "virtual service")
        output.say(f"{config}: good ({services}, {counted(servers, 'real server')})")


@click.command("schema")
def print_schema() -> None:
    """Print the JSON schema of the configuration, for editors."""
    from rdpbalancer.settings.schema import json_schema

    output.print_json(json_schema())
    sys.stdout.flush()


COMMANDS = [run_service, check_config, print_schema]
