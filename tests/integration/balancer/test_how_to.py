"""The commands of docs/how-to, run line by line beside a balancer with a user, as the pages show them."""

import asyncio
import os
import random
import re
import shutil
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from rdpbalancer.lab.opening import LabOpening
from rdpbalancer.lab.population import Visit, storm
from rdpbalancer.tasks import cancel_and_wait, spawn
from tests.support.balancer import Balancer
from tests.support.running_balancer import labs
from tests.support.wait import wait_until_async

HOW_TO: Final = Path(__file__).parents[3] / "docs" / "how-to"
# Longer waits on the pages than a test has.
_WAIT: Final = re.compile(r"--deadline \S+")
_PATIENCE_S: Final = 20


class Step(NamedTuple):
    """A command of a page, and what the page says it prints (nothing: the page does not say)."""

    command: str
    printed: str


def steps(page: str) -> Iterator[Step]:
    """Yield the commands of a page that ask a running service, in their order."""
    text = (HOW_TO / page).read_text(encoding="utf-8")
    for block in re.findall(r"^```console\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        for command, printed in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE):
            if not command.startswith("rdpbalancer lab "):
                yield Step(command, printed)


@asynccontextmanager
async def farm(folder: Path, names: list[str]) -> AsyncIterator[Balancer]:
    """Run a balancer of servers with these names, whose first one has the user alice."""
    async with AsyncExitStack() as stack:
        servers = await stack.enter_async_context(labs(len(names)))
        real = [
            {"name": name, "address": str(server.endpoint)}
            for name, server in zip(names, servers, strict=True)
        ]
        balancer = Balancer(
            folder,
            [{"name": "ts-cluster", "scheduler": "first-available", "real_servers": real}],
            level="warning",
        )
        await asyncio.to_thread(balancer.start)
        staying = None
        try:
            await asyncio.to_thread(balancer.wait_usable, len(names))
            visits: list[Visit] = []
            there = storm(
                balancer.endpoint("ts-cluster"), ["alice"], 1, random.Random(1), asyncio.Event(),
                opening=lambda user: LabOpening(cookie=user), landed=visits.append,
            )  # fmt: skip
            staying = spawn(there, name="alice")
            await wait_until_async(lambda: visits, _PATIENCE_S, "alice to be there")
            yield balancer
        finally:
            if staying is not None:
                await cancel_and_wait(staying)
            assert 0 == await asyncio.to_thread(balancer.stop)


def program(folder: Path, balancer: Balancer) -> Mapping[str, str]:
    """Make `rdpbalancer` a command of the shell that asks this balancer; return the environment."""
    binary = folder / "bin" / "rdpbalancer"
    binary.parent.mkdir()
    binary.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m rdpbalancer "$@"\n')
    binary.chmod(0o755)
    path = f"{binary.parent}:{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "RDPBALANCER_SOCKET": str(balancer.socket), "NO_COLOR": "1"}


async def shell(command: str, environ: Mapping[str, str]) -> tuple[int, str, str]:
    """Run a line as a person would type it; return its exit status and what it printed."""
    process = await asyncio.create_subprocess_exec(
        "bash", "-o", "pipefail", "-c", command, env=environ,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await asyncio.wait_for(process.communicate(), 2 * _PATIENCE_S)
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


def without_numbers(text: str) -> str:
    """Return a text with every count alike: a page's farm has other numbers of sessions."""
    return re.sub(r"\b\d+ (session|binding)s?\b", r"N \1s", text)


@pytest.mark.parametrize(
    ("page", "names"),
    [
        ("drain-for-maintenance.md", ["ts1", "ts2"]),
        ("move-a-user.md", ["ts1", "ts2"]),
        ("monitoring.md", ["ts1", "ts2"]),
        ("rds-with-connection-broker.md", ["rdsh1", "rdsh2"]),
    ],
)
async def test_every_command_of_a_page_does_what_the_page_says(
    page: str, names: list[str], tmp_path: Path
) -> None:
    """One after the other, as somebody reads: each ends well and prints what is shown below it."""
    shown = list(steps(page))
    assert shown, page
    async with farm(tmp_path, names) as balancer:
        environ = program(tmp_path, balancer)
        for step in shown:
            tool = next((tool for tool in ("jq", "curl") if re.search(rf"\b{tool} ", step.command)), None)
            if tool is not None and shutil.which(tool) is None:
                continue  # end-to-end tests demand these programs; here they are a help only
            command = _WAIT.sub("--deadline 300ms", step.command)
            command = command.replace("127.0.0.1:9389", str(balancer.metrics))
            status, out, err = await shell(command, environ)
            assert (0, "") == (status, err), f"{command}: {err or out}"
            if step.printed:
                assert without_numbers(step.printed) == without_numbers(out), command


def test_pages_show_commands() -> None:
    """The test above can fail: it finds commands, and the output that is shown below them."""
    drain = list(steps("drain-for-maintenance.md"))
    first = Step('rdpbalancer drain ts1 --reason "patch night"', "ts-cluster/ts1: drain (31 sessions)\n")
    assert first == drain[0]
    assert "ts-cluster/ts1: drain (N sessions)" == without_numbers("ts-cluster/ts1: drain (1 session)")
