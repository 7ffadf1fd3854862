"""Waiting for a condition with a deadline, and the error for one that did not come. Apart: all use it."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from rdpbalancer.errors import RdpBalancerError

T = TypeVar("T")

# Short enough not to be felt, long enough to leave the processor to what is waited for.
INTERVAL_S: Final = 0.02


class DemoError(RdpBalancerError):
    """The demonstration cannot go on. Codes: ``not-started``, ``ended``, ``not-in-time``."""


async def until(ask: Callable[[], Awaitable[T | None]], timeout_s: float, what: str) -> T:
    """Call `ask` until it returns something true, and return that. Raises DemoError ``not-in-time``."""
    loop = asyncio.get_running_loop()
    deadline_at = loop.time() + timeout_s
    while not (answer := await ask()):
        if loop.time() >= deadline_at:
            raise DemoError("not-in-time", f"not within {timeout_s:g} s: {what}")
        await asyncio.sleep(INTERVAL_S)
    return answer
