"""An upgrade as the router sees it: asked for by an operator, carried out by the supervisor."""

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec

from rdpbalancer import __version__
from rdpbalancer.errors import ConfigurationError
from rdpbalancer.ipc.router_messages import PROTOCOL_VERSION, SupervisorHello, Upgrade


class UpgradeRequest:
    """Asks for upgrades, and knows what the supervisor says of the last one.

    `check()` raises ConfigurationError where none is possible now.
    """

    def __init__(self, *, send: Callable[[msgspec.Struct], None], check: Callable[[], None]) -> None:
        self._send = send
        self._check = check
        self._answer: asyncio.Future[str] | None = None
        self.generation = 0
        self.reverted: dict[str, Any] | None = None
        self.code_changed = False

    def greeted(self, hello: SupervisorHello) -> None:
        """The supervisor has said who it is. Raises SystemExit: it is not of this code."""
        if hello.version != PROTOCOL_VERSION:
            message = f"router: the supervisor speaks version {hello.version} of the private protocol"
            raise SystemExit(message)
        self.generation = hello.generation
        self.reverted, self.code_changed = hello.reverted, hello.code_changed

    async def ask(self, *, requested: Callable[[], None]) -> dict[str, Any]:
        """Have the supervisor become the newly installed code; return once it is known that it will.

        `requested()` is called if nobody has asked before. Raises ConfigurationError: it will not, and why.
        """
        self._check()
        if self._answer is None or self._answer.done():
            self._answer = asyncio.get_running_loop().create_future()
            requested()
            self._send(Upgrade())
        if problem := await self._answer:
            raise ConfigurationError("upgrade-refused", f"{problem}; the running code goes on")
        return {"generation": self.generation, "version": __version__}

    def answered(self, problem: str) -> None:
        """The supervisor has decided; nothing: it goes on to the new code."""
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(problem)
