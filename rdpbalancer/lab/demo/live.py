"""The show: the balancer, its servers and its users, live on a terminal, or line by line elsewhere."""

import asyncio
import contextlib
import random
from collections.abc import Coroutine
from typing import Any, Final

from rich.console import Console
from rich.live import Live

from rdpbalancer.errors import RdpBalancerError
from rdpbalancer.lab.demo.board import Board, watch
from rdpbalancer.lab.demo.people import People
from rdpbalancer.lab.demo.plain import print_lines
from rdpbalancer.lab.demo.screen import Screen
from rdpbalancer.lab.demo.stage import Plan, Stage, open_stage
from rdpbalancer.lab.demo.story import Story
from rdpbalancer.lab.demo.tally import Tally, verdict

USERS: Final = 12
_REDRAW_S: Final = 0.25


async def run_live(
    console: Console,
    *,
    plain: bool,
    users: int = USERS,
    seconds: float | None = None,
    plan: Plan | None = None,
    rng: random.Random,
) -> bool:
    """Show it for `seconds` (None: until cancelled), then the verdict. True: every promise was kept.

    Raises DemoError, with the balancer's log, if the balancer does not start or ends.
    """
    tally = Tally()
    console.print("rdpbalancer, three terminal servers and their users start ...")
    try:
        async with open_stage(plan or Plan(), rng) as stage:
            tally = stage.tally
            await _play(stage, console, plain=plain, users=users, seconds=seconds, rng=rng)
    finally:
        problems = list(tally.problems)
        if tally.visits:
            console.print(verdict(tally, problems), soft_wrap=True, highlight=False)
    return not problems


async def _play(
    stage: Stage, console: Console, *, plain: bool, users: int, seconds: float | None, rng: random.Random
) -> None:
    """Let everything happen at once until the time is over."""
    loop = asyncio.get_running_loop()
    board = Board(str(stage.endpoint), str(stage.service.socket), stage.tally, loop.time())
    board.status = await stage.status()
    stage.tell = board.lately.append

    async def everything() -> None:
        async with asyncio.TaskGroup() as group:
            people = People(stage, group, rng)
            people.invite(users)
            group.create_task(watch(board, stage), name="watch")
            group.create_task(Story(stage, board, people).tell(), name="story")
            group.create_task(print_lines(board, console) if plain else draw(board, console), name="show")

    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await _bare(everything())


async def draw(board: Board, console: Console) -> None:
    """Draw the board again and again."""
    loop = asyncio.get_running_loop()
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            live.update(Screen(board, now=loop.time()), refresh=True)
            await asyncio.sleep(_REDRAW_S)


async def _bare(work: Coroutine[Any, Any, None]) -> None:
    """Await `work`; raise the first error of ours that a task group in it raises, bare, not in a group."""
    try:
        await work
    except* RdpBalancerError as errors:
        first = errors.exceptions[0]
    else:
        return
    raise first
