"""The reserve of descriptors: who is let in, how many a relay gets, and the door that closes in time."""

import asyncio
import errno
import socket
from typing import Any

import pytest

from rdpbalancer.model import Endpoint
from rdpbalancer.net import descriptors, listen
from rdpbalancer.net.accept import Acceptor
from tests.support.wait import wait_until_async


@pytest.mark.parametrize(("limit", "sessions"), [(20_000, 9_984), (256, 112), (34, 1), (10, 1)])
def test_a_relays_sessions(limit: int, sessions: int) -> None:
    """Two descriptors each, after the reserve; one at least, or nothing would ever work."""
    assert sessions == descriptors.sessions_of_a_relay(limit)


def test_short_before_the_last() -> None:
    """Everybody who is half open is owed a dial, every server its checks, the operator the reserve."""
    reserve = descriptors.RESERVED + descriptors.CONTROL_CLIENTS
    last = 256 - reserve - 3 * descriptors.PER_SERVER - 50 - 1
    assert not descriptors.short(last, limit=256, half_open=50, servers=3)
    assert descriptors.short(last + 1, limit=256, half_open=50, servers=3)
    assert descriptors.short(last, limit=256, half_open=51, servers=3)
    assert descriptors.short(last, limit=256, half_open=50, servers=4)


def test_the_limit_is_this_process() -> None:
    """What the system says; "unlimited" is a number too."""
    assert 0 < descriptors.limit() <= 1_000_000_000


async def test_a_crowd_pauses_the_door() -> None:
    """Told once a pause, asked again without a connection, open again when there is room."""
    listener = listen.tcp(Endpoint("127.0.0.1", 0))
    came: list[socket.socket] = []
    pauses: list[OSError] = []
    asked: list[int] = []
    crowded = True

    def took(sock: socket.socket, _address: Any) -> None:
        came.append(sock)

    def full(newest: int) -> str:
        asked.append(newest)
        return "too many" if crowded else ""

    door = Acceptor(listener, on_connection=took, on_shortage=pauses.append, crowded=full)
    clients = [socket.create_connection(listener.getsockname()) for _ in range(3)]
    door.start()
    await wait_until_async(lambda: len(pauses) >= 2, 5, "a second pause")
    assert 1 == len(came)
    assert asked[0] == came[0].fileno()
    assert {(errno.EMFILE, "too many")} == {(error.errno, error.strerror) for error in pauses}
    crowded = False
    await wait_until_async(lambda: len(came) == 3, 5, "the others")
    crowded = True
    clients.append(socket.create_connection(listener.getsockname()))
    await wait_until_async(lambda: len(came) == 4, 5, "one more")
    door.close()  # in the middle of a pause
    await asyncio.sleep(0)
    for sock in (*clients, *came):
        sock.close()
