"""The one place where a background task is started (a bare ``create_task`` loses its exception)."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

_running: set[asyncio.Task[Any]] = set()


def spawn(
    coroutine: Coroutine[Any, Any, Any],
    *,
    name: str,
    on_error: Callable[[BaseException], None] | None = None,
) -> asyncio.Task[Any]:
    """Run `coroutine` in the background, keep it referenced, and report its unhandled error.

    Without `on_error` the loop's exception handler is told, which the service logs as an error.
    """
    loop = asyncio.get_running_loop()
    task = loop.create_task(coroutine, name=name)
    _running.add(task)

    def finished(done: asyncio.Task[Any]) -> None:
        _running.discard(done)
        if done.cancelled() or (error := done.exception()) is None:
            return
        if on_error is not None:
            on_error(error)
        else:
            loop.call_exception_handler(
                {"message": f"background task {name} failed", "exception": error, "task": done}
            )

    task.add_done_callback(finished)
    return task


async def cancel_and_wait(*tasks: asyncio.Task[Any]) -> None:
    """Cancel `tasks` and wait until they have ended, however they end."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
