"""``lab``: the simulated parts alone: a terminal server, a feedback agent, users. ``demo``: all of them."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from rdpbalancer.cli.address import Address
from rdpbalancer.cli.demo import demo
from rdpbalancer.cli.lab_client import lab_client
from rdpbalancer.cli.stopping import run_until_stopped
from rdpbalancer.model import Endpoint

_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)

listen_option = click.option(
    "--listen", type=Address(0), default="127.0.0.1:0", show_default=True, help="Port 0: one that is free."
)


@contextlib.contextmanager
def _as_usage() -> Iterator[None]:
    """Report options that the lab does not know as wrong usage."""
    from rdpbalancer.lab.channel import LabError

    try:
        yield
    except LabError as error:
        raise click.UsageError(str(error)) from error
    except ValueError as error:  # an unknown fault or mode
        raise click.UsageError(str(error)) from error


def _say(text: str) -> None:
    print(text, flush=True)


def _say_nothing(_text: str) -> None:
    pass


@click.group("lab")
def lab() -> None:
    """Run the simulated parts alone: a terminal server, users, a feedback agent."""


@lab.command("server")
@click.option("--name", default="ts1", show_default=True, help="Its name, which its desktops begin with.")
@listen_option
@click.option(
    "--security",
    default="rdp",
    show_default=True,
    help="What it answers: rdp, tls, nla, legacy, failure:N ...",
)
@click.option(
    "--behaviour",
    default="desktop-login",
    show_default=True,
    help="What follows: desktop-login, broker, gnome, echo, stream, desktop, sink.",
)
@click.option("--agent-port", type=click.IntRange(0, 65535), help="Have a feedback agent, on this port.")
@click.option("--agent-reply", default="100%", show_default=True, help="What the agent answers.")
@click.option("--stream-bytes", type=click.IntRange(0), default=1_000_000, help="How much `stream` sends.")
@click.option("--after-stream", type=click.Choice(["half-close", "stay"]), default="half-close")
@click.option("--updates-per-s", type=click.FloatRange(0, min_open=True), default=10.0, help="Of `desktop`.")
@click.option("--update-bytes", type=click.IntRange(1), default=4096, help="The largest of them.")
@click.option("--elsewhere", type=Address(3389), help="Where `broker` sends users whom it does not know.")
@click.option("--advertised", type=Address(3389), help="Its own address in routing tokens.")
@click.option("--after-token", type=click.Choice(["hold", "close"]), default="hold", help="Of `broker`.")
@click.option("--certificate", type=_FILE, help="For programs that begin TLS (PEM).")
@click.option("--key", type=_FILE, help="The certificate's key (PEM).")
@click.option(
    "--fault", default="none", help="What it does wrong: refuse, silent, slow-confirm, reset-after ..."
)
@click.option("--fault-delay", type=click.FloatRange(0), default=0.001, help="Seconds, of slow faults.")
@click.option("--fault-after", type=click.IntRange(0), default=0, help="Bytes, of reset-after and its like.")
@click.pass_context
def lab_server(
    context: click.Context,
    /,
    *,
    listen: Endpoint,
    agent_port: int | None,
    agent_reply: str,
    elsewhere: Endpoint | None,
    fault: str,
    fault_delay: float,
    fault_after: int,
    **settings: Any,
) -> None:
    """Run a simulated terminal server until Ctrl-C; print its address, and what happens."""
    from rdpbalancer.lab.agent import LabAgent
    from rdpbalancer.lab.desktops import Broker
    from rdpbalancer.lab.server import run_server
    from rdpbalancer.lab.telling import TellingServer

    broker = Broker(elsewhere) if settings["behaviour"] == "broker" else None
    with _as_usage():
        server = TellingServer(host=listen.host, port=listen.port, broker=broker, **settings)
        server.faults.inject(fault, delay_s=fault_delay, after_bytes=fault_after)
    agent = None if agent_port is None else LabAgent(agent_reply, host=listen.host, port=agent_port)
    server.tell = tell = _say_nothing if context.obj["quiet"] else _say

    def ready(endpoint: Endpoint) -> None:
        tell(f"{server.name} listens on {endpoint} ({server.security}, {server.behaviour})")
        if agent is not None:
            tell(f"its feedback agent on {agent.endpoint} answers {agent.reply}")

    run_until_stopped(run_server(server, agent=agent, ready=ready))
    tell(server.summary())


@lab.command("agent")
@listen_option
@click.option("--reply", default="100%", show_default=True, help="What it answers: 75%, drain, down #why ...")
@click.option(
    "--mode", default="answer", show_default=True, help="How: answer, no-newline, silent, refuse ..."
)
@click.pass_context
def lab_agent(context: click.Context, *, listen: Endpoint, reply: str, mode: str) -> None:
    """Run a simulated feedback agent until Ctrl-C."""
    import asyncio

    from rdpbalancer.lab.agent import LabAgent

    agent = LabAgent(reply, host=listen.host, port=listen.port)
    with _as_usage():
        agent.behave(mode)
    tell = _say_nothing if context.obj["quiet"] else _say

    async def run() -> None:
        async with agent:
            tell(f"feedback agent on {agent.endpoint} answers {agent.reply} ({agent.mode})")
            await asyncio.Event().wait()

    run_until_stopped(run())
    tell(f"asked {agent.asked} times")


lab.add_command(lab_client)

COMMANDS: list[click.Command] = [demo, lab]
