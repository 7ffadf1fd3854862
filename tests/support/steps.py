"""Running in a test's task what waits for `net.poller`'s watches, which no task can await."""

import asyncio
from collections.abc import Coroutine, Generator, Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

from rdpbalancer.net.poller import Poller, StepRunner

T = TypeVar("T")


@contextmanager
def watching() -> Iterator[Poller]:
    """Yield the running loop's `Poller`; at the end no socket may be watched any more."""
    waits = Poller()
    try:
        yield waits
        assert 0 == len(waits), "a watch is left"
    finally:
        waits.close()


class Stepped(Generic[T]):
    """A coroutine that has been begun in `StepRunner`. Await this for its result, or its error.

    Cancelled, by `cancel` or because whoever awaits it is, it gets a CancelledError where it waits.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, T]) -> None:
        self._result: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._steps = StepRunner(self._to_its_end(coroutine), on_done=lambda _: None)

    @property
    def done(self) -> bool:
        """Whether it has ended."""
        return self._steps.done

    def cancel(self) -> None:
        """End it, if it has not ended."""
        self._steps.cancel()

    def throw(self, error: Exception) -> None:
        """Raise an error where it waits, if it has not ended."""
        self._steps.throw(error)

    def __await__(self) -> Generator[Any, None, T]:
        return self._outcome().__await__()

    async def _outcome(self) -> T:
        try:
            return await self._result
        finally:
            self.cancel()

    async def _to_its_end(self, coroutine: Coroutine[Any, Any, T]) -> None:
        try:
            value = await coroutine
        except asyncio.CancelledError:
            self._result.cancel()
        except BaseException as error:  # noqa: BLE001 (all of them are the test's)
            self._result.set_exception(error)
        else:
            self._result.set_result(value)


async def stepped(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in `StepRunner`, and return its result or raise its error."""
    return await Stepped(coroutine)
