"""Commands that run until Ctrl-C. Apart from the commands themselves, which share it."""

import asyncio
import signal
from collections.abc import Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")

# SIGHUP: the terminal was closed.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run_until_stopped(work: Coroutine[Any, Any, Result]) -> Result | None:
    """Run `work` and return its result; None: one of the `SIGNALS` ended it.

    The first of these cancels the work, which cleans up; further ones change nothing.
    """
    from rdpbalancer.tasks import spawn

    async def main() -> Result | None:
        task = spawn(work, name="command", on_error=lambda _error: None)  # result() below raises it
        loop = asyncio.get_running_loop()
        stopped = False

        def stop() -> None:
            nonlocal stopped
            if not stopped:
                task.cancel()
            stopped = True

        for number in SIGNALS:
            loop.add_signal_handler(number, stop)
        await asyncio.wait([task])
        if task.cancelled():
            return None
        result: Result = task.result()
        return result

    return asyncio.run(main())
