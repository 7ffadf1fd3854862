"""``demo`` and ``lab``: the balancer shown with simulated servers and users, and these alone."""

import asyncio
import os
import random
import signal
import sys
from collections.abc import Coroutine
from typing import Any

import click

from rdpbalancer.cli import output

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run_until_stopped(work: Coroutine[Any, Any, bool | None]) -> bool | None:
    """Run `work`; return its result, None if Ctrl-C (or SIGTERM, SIGHUP) ended it.

    The first of these cancels the work, which cleans up; more of them change nothing.
    """
    from rdpbalancer.tasks import spawn

    async def main() -> bool | None:
        task = spawn(work, name="command", on_error=lambda _error: None)  # raised by result() below
        loop = asyncio.get_running_loop()
        stopped: list[int] = []

        def stop(number: int) -> None:
            if not stopped:
                task.cancel()
            stopped.append(number)

        for number in _SIGNALS:
            loop.add_signal_handler(number, stop, number)
        await asyncio.wait([task])
        return None if task.cancelled() else task.result()

    return asyncio.run(main())


@click.command("demo")
@click.option("--once", is_flag=True, help="Play a fixed script, tell its steps, and end with a verdict.")
@click.option("--seconds", type=click.FloatRange(min=0, min_open=True), help="End after so many seconds.")
@click.option(
    "--users",
    type=click.IntRange(3, 60),
    default=15,
    show_default=True,
    help="How many users come and go (not with --once).",
)
@click.option("--seed", type=int, help="Repeat the same users' chances (not with --once).")
@click.option("--plain", is_flag=True, help="Print lines, where a terminal would get a live picture.")
@click.option("--without", type=click.Choice(["persistence", "desktops"]), hidden=True)
def demo(
    *, once: bool, seconds: float | None, users: int, seed: int | None, plain: bool, without: str | None
) -> None:
    """Show the balancer at work: three terminal servers and their users, on this machine alone.

    The balancer runs as it would in service; servers and users are simulated. It listens on the loopback
    interface only, and leaves nothing behind. Ctrl-C ends it.
    """
    from rich.console import Console

    from rdpbalancer.lab.demo.live import run_live
    from rdpbalancer.lab.demo.script import run_script
    from rdpbalancer.lab.demo.stage import Plan

    # Both spoil the farm, so that the verdict can be seen to fail.
    plan = Plan(methods=()) if without == "persistence" else Plan(forgetful=without == "desktops")
    colourless = "NO_COLOR" in os.environ
    console = Console(no_color=colourless, highlight=False)
    if once:
        good = run_until_stopped(run_script(console, plan=plan))
        sys.exit(0 if good else output.EXIT_FAILED)
    drawable = sys.stdout.isatty() and not console.is_dumb_terminal and not colourless
    good = run_until_stopped(
        run_live(
            console,
            plain=plain or not drawable,
            users=users,
            seconds=seconds,
            plan=plan,
            rng=random.Random(seed),  # noqa: S311 (simulated users are random, not secret)
        )
    )
    sys.exit(output.EXIT_FAILED if good is False else 0)


COMMANDS: list[click.Command] = [demo]
