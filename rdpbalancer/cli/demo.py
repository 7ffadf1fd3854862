"""``demo``: the balancer shown with simulated servers and users."""

import os
import random
import sys

import click
from click.core import ParameterSource

from rdpbalancer.cli import output
from rdpbalancer.cli.stopping import run_until_stopped


@click.command("demo")
@click.option("--once", is_flag=True, help="Play a fixed script, tell its steps, and end with a verdict.")
@click.option(
    "--seconds",
    type=click.FloatRange(min=0, min_open=True),
    help="End after so many seconds (not with --once).",
)
@click.option(
    "--users",
    type=click.IntRange(3, 60),
    default=12,
    show_default=True,
    help="How many users come and go (not with --once).",
)
@click.option("--seed", type=int, help="Let chance repeat itself (not with --once).")
@click.option("--plain", is_flag=True, help="Print lines, where a terminal would get a live picture.")
@click.option("--without", type=click.Choice(["persistence", "desktops"]), hidden=True)
@click.pass_context
def demo(
    context: click.Context,
    /,
    *,
    once: bool,
    seconds: float | None,
    users: int,
    seed: int | None,
    plain: bool,
    without: str | None,
) -> None:
    """Show the balancer at work: three terminal servers and their users, on this machine alone.

    The balancer runs as it would in service; servers and users are simulated. It listens on the loopback
    interface only, and leaves nothing behind. Ctrl-C ends it.
    """
    if once:
        _refuse(context, "seconds", "users", "seed")

    from rich.console import Console

    from rdpbalancer.lab.demo.live import run_live
    from rdpbalancer.lab.demo.screen import fits
    from rdpbalancer.lab.demo.script import run_script
    from rdpbalancer.lab.demo.stage import Plan

    # Both spoil the farm, so that the verdict can be seen to fail.
    plan = Plan(methods=()) if without == "persistence" else Plan(forgetful=without == "desktops")
    colourless = "NO_COLOR" in os.environ
    console = Console(no_color=colourless, highlight=False)
    if once:
        good = run_until_stopped(run_script(console, plan=plan))
        sys.exit(0 if good else output.EXIT_FAILED)
    drawn = sys.stdout.isatty() and fits(console) and not (plain or colourless)
    show = run_live(
        console,
        plain=not drawn,
        users=users,
        seconds=seconds,
        plan=plan,
        rng=random.Random(seed),  # noqa: S311 (simulated users are random, not secret)
    )
    sys.exit(output.EXIT_FAILED if run_until_stopped(show) is False else 0)


def _refuse(context: click.Context, *names: str) -> None:
    """Refuse options that the fixed script would not heed. Raises click.UsageError."""
    given = [name for name in names if context.get_parameter_source(name) is ParameterSource.COMMANDLINE]
    if given:
        raise click.UsageError(f"--{given[0]} is not for --once, which plays a fixed script")
