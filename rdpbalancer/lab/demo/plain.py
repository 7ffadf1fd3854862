"""The live show where there is no terminal to draw on: one line for everything that matters."""

import asyncio
from collections.abc import Callable
from typing import Final

from rich.console import Console

from rdpbalancer.lab.demo.board import Board, Scene
from rdpbalancer.lab.demo.tally import Cause, Outcome

_LOOK_S: Final = 0.1
_TOTALS_EVERY_S: Final = 5.0


Say = Callable[[str], None]


async def print_lines(board: Board, console: Console) -> None:
    """Print scenes as they begin, what came of them as they end, and how things stand every few seconds."""
    loop = asyncio.get_running_loop()
    scene: Scene | None = None
    totals_at = loop.time() + _TOTALS_EVERY_S

    def say(text: str) -> None:
        past_s = int(loop.time() - board.started_at)
        console.print(
            f"{past_s // 60}:{past_s % 60:02}  {text}", soft_wrap=True, markup=False, highlight=False
        )

    try:
        while True:
            if board.scene is not scene and board.scene.words:
                _tell_finding(scene, say)
                scene = board.scene
                say(f"{scene.title} ({scene.command}). {scene.words}")
            if loop.time() >= totals_at:
                totals_at += _TOTALS_EVERY_S
                say(f"   {standing(board)}")
            await asyncio.sleep(_LOOK_S)
    finally:
        _tell_finding(scene, say)


def _tell_finding(scene: Scene | None, say: Say) -> None:
    if scene is not None and scene.finding:
        say(f"   {scene.finding}")


def standing(board: Board) -> str:
    """Return how things stand, in one line."""
    tally = board.tally
    servers = ", ".join(
        f"{row['name']} {row['health']} {row['state']} {row['sessions']}" for row in board.servers
    )
    own, moved = tally.outcomes[Outcome.OWN], tally.outcomes[Outcome.MOVED]
    return (
        f"{servers} | {tally.visits} visits, {tally.returns} returns: {own} to the own desktop,"
        f" {moved} after it was lost with its server, {tally.wrong} wrong;"
        f" {tally.broken[Cause.NONE]} sessions cut off"
    )
