"""Waiting on a condition with a deadline: the only place in the tests that sleeps."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, overload

T = TypeVar("T")

# Short enough not to be felt in a test's time, long enough to leave the processor to what is waited for.
_INTERVAL_S = 0.02


def _complain(what: str | Callable[[], str], timeout_s: float, last: object) -> AssertionError:
    text = what() if callable(what) else what
    return AssertionError(f"not within {timeout_s:g} s: {text} (last seen: {last!r})")


def wait_until(predicate: Callable[[], T | None], timeout_s: float, what: str | Callable[[], str]) -> T:
    """Call `predicate` until it returns something true, and return that.

    Args:
        predicate: asked now, again and again, and a last time when the deadline has passed.
        timeout_s: the deadline, in seconds.
        what: the condition in words for the failure; a callable is asked only then (a log's end, say).

    Raises:
        AssertionError: the deadline passed.
    """
    deadline = time.monotonic() + timeout_s
    while not (value := predicate()):
        if time.monotonic() >= deadline:
            raise _complain(what, timeout_s, value)
        time.sleep(_INTERVAL_S)
    return value


@overload
async def wait_until_async(
    predicate: Callable[[], Awaitable[T | None]], timeout_s: float, what: str | Callable[[], str]
) -> T: ...


@overload
async def wait_until_async(
    predicate: Callable[[], T | None], timeout_s: float, what: str | Callable[[], str]
) -> T: ...


async def wait_until_async(
    predicate: Callable[[], Any], timeout_s: float, what: str | Callable[[], str]
) -> Any:
    """`wait_until` for a test with a loop: `predicate` may also be a coroutine function."""
    deadline = time.monotonic() + timeout_s
    while True:
        result = predicate()
        value = await result if isinstance(result, Awaitable) else result
        if value:
            return value
        if time.monotonic() >= deadline:
            raise _complain(what, timeout_s, value)
        await asyncio.sleep(_INTERVAL_S)
