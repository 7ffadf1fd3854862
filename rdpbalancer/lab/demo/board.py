"""What the live show shows: the balancer's own view, and what is being done to it."""

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Final

from rdpbalancer.control.client import UnreachableError
from rdpbalancer.lab.demo.stage import Stage
from rdpbalancer.lab.demo.tally import Tally

KEPT_EVENTS: Final = 50  # more than the tallest terminal shows
POLL_S: Final = 0.4


@dataclass(slots=True)
class Scene:
    """What is going on, in words. `command`: what an administrator would type; `finding`: what came of it."""

    title: str
    words: str
    command: str = ""
    finding: str = ""


@dataclass(slots=True)
class Board:
    """Read by what draws; written by the story, the users and `watch`."""

    address: str
    socket: str
    tally: Tally
    started_at: float  # monotonic
    scene: Scene = field(default_factory=lambda: Scene("The users arrive", ""))
    scenes: int = 0
    status: dict[str, Any] | None = None  # what the control socket said last
    answering: bool = True
    asked_at: float | None = None  # monotonic; None: no question is open
    lately: deque[str] = field(default_factory=lambda: deque(maxlen=KEPT_EVENTS))

    def begin(self, scene: Scene) -> Scene:
        """Make `scene` the present one."""
        self.scene = scene
        self.scenes += 1
        return scene

    @property
    def servers(self) -> list[dict[str, Any]]:
        """The real servers as the balancer sees them."""
        return list(self.status["servers"]) if self.status else []


async def watch(board: Board, stage: Stage) -> None:
    """Ask the balancer again and again. Raises DemoError if it has ended."""
    loop = asyncio.get_running_loop()
    while True:
        stage.service.check_alive()
        board.asked_at = loop.time()
        try:
            board.status = await stage.status()
        except UnreachableError:
            board.answering = False
        else:
            board.answering = True
        board.asked_at = None
        await asyncio.sleep(POLL_S)
