"""Connections that take their time."""

import asyncio
from typing import cast

from rdpbalancer.session.connection import Connection
from rdpbalancer.session.slow import SLOW_AFTER_S, SlowConnections
from tests.support.wait import wait_until_async


def connection() -> Connection:
    """Return something that counts as a connection: nobody looks into it."""
    return cast("Connection", object())


async def test_only_a_connection_that_takes_its_time_is_slow() -> None:
    slow: list[Connection] = []
    connections = SlowConnections(slow.append)
    quick, late = connection(), connection()
    connections.add(quick)
    connections.add(late)
    connections.discard(quick)
    began_at = asyncio.get_running_loop().time()
    await wait_until_async(lambda: slow, 10, "a slow one")
    assert asyncio.get_running_loop().time() - began_at >= SLOW_AFTER_S * 0.9
    assert [late] == slow
    connections.close()


async def test_a_connection_that_came_later_has_its_own_time() -> None:
    slow: list[Connection] = []
    connections = SlowConnections(slow.append)
    first, second = connection(), connection()
    connections.add(first)
    await wait_until_async(lambda: slow, 10, "the first one")
    connections.add(second)
    connections.discard(second)
    third = connection()
    connections.add(third)
    await wait_until_async(lambda: len(slow) == 2, 10, "the third one")
    assert [first, third] == slow
    connections.close()


async def test_nothing_is_told_after_the_close() -> None:
    slow: list[Connection] = []
    connections = SlowConnections(slow.append)
    connections.add(connection())
    connections.close()
    connections.close()
    await asyncio.sleep(0)
    assert [] == slow
