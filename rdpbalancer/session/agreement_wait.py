"""Waiting for other machines to agree on a key's server (`core.agreement`)."""

import asyncio

from rdpbalancer.core.agreement import Answer

# Whoever keeps the shared bindings may be sick; nobody's login is to wait for that any longer.
AGREEMENT_S = 0.5


async def agreed(answer: Answer, *, timeout_s: float = AGREEMENT_S) -> bool:
    """Wait for an answer and return it; without one after `timeout_s` this machine decides alone: True."""
    loop = asyncio.get_running_loop()
    came: asyncio.Future[None] = loop.create_future()

    def settle() -> None:
        if not came.done():
            came.set_result(None)

    answer.add_callback(settle)
    timer = loop.call_later(timeout_s, settle)
    try:
        if not answer.done:
            await came
    finally:
        timer.cancel()
    return answer.agreed or not answer.done
