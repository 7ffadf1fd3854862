"""Accepting: batches, shortage of descriptors, and stopping without losing who waits."""

import asyncio
import errno
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from rdpbalancer.errors import ConfigurationError
from rdpbalancer.model import Endpoint
from rdpbalancer.net import listen
from rdpbalancer.net.accept import Acceptor
from rdpbalancer.net.options import reset_on_close
from rdpbalancer.net.resolve import literal, resolve
from tests.support.wait import wait_until_async


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """A listening socket on a free port."""
    sock = listen.tcp(Endpoint("127.0.0.1", 0))
    yield sock
    sock.close()


class Door:
    """An acceptor and what came through it."""

    def __init__(self, listener: socket.socket) -> None:
        self.came: list[socket.socket] = []
        self.shortages: list[OSError] = []
        self.acceptor = Acceptor(listener, on_connection=self._took, on_shortage=self.shortages.append)

    def _took(self, sock: socket.socket, _address: Any) -> None:
        assert not sock.getblocking()
        self.came.append(sock)

    def close(self) -> None:
        """Close the door and who came."""
        self.acceptor.close()
        for sock in self.came:
            sock.close()


async def test_a_crowd_is_taken(listener: socket.socket) -> None:
    """More connections than one batch, all taken; stopped, they wait in the kernel for the start."""
    door = Door(listener)
    clients = [socket.create_connection(listener.getsockname()) for _ in range(150)]
    assert [] == door.came
    door.acceptor.start()
    door.acceptor.start()
    await wait_until_async(lambda: len(door.came) == 150, 5, "150 connections")
    door.acceptor.stop()
    clients.append(socket.create_connection(listener.getsockname()))
    await asyncio.sleep(0)
    assert 150 == len(door.came)
    door.acceptor.start()
    await wait_until_async(lambda: len(door.came) == 151, 5, "one more")
    door.close()
    for client in clients:
        client.close()


class ShortListener:
    """A listening socket on a machine that is short of something for a while."""

    def __init__(self, real: socket.socket, failures: list[int]) -> None:
        self._real = real
        self._failures = failures

    def fileno(self) -> int:
        """Return the real descriptor, for the loop."""
        return self._real.fileno()

    def accept(self) -> tuple[socket.socket, Any]:
        """Fail as planned, then accept."""
        if self._failures:
            number = self._failures.pop(0)
            raise OSError(number, "planned")
        self._real.setblocking(False)
        return self._real.accept()

    def close(self) -> None:
        """Close the real socket."""
        self._real.close()


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
async def test_a_shortage_pauses(listener: socket.socket, number: int) -> None:
    """Out of descriptors or memory: told once, tried again a moment later, nobody is lost."""
    door = Door(ShortListener(listener, [number]))  # type: ignore[arg-type]
    with socket.create_connection(listener.getsockname()):
        door.acceptor.start()
        await wait_until_async(lambda: door.came, 5, "the connection")
        assert [number] == [error.errno for error in door.shortages]
        door.close()


async def test_a_connection_that_died_while_it_waited(listener: socket.socket) -> None:
    """ECONNABORTED concerns that one only."""
    door = Door(ShortListener(listener, [errno.ECONNABORTED, errno.EPROTO]))  # type: ignore[arg-type]
    with socket.create_connection(listener.getsockname()):
        door.acceptor.start()
        await wait_until_async(lambda: door.came, 5, "the connection")
        assert [] == door.shortages
        door.close()


async def test_closing_during_a_pause(listener: socket.socket) -> None:
    """A door that is closed while it stands back stays closed."""
    door = Door(ShortListener(listener, [errno.EMFILE]))  # type: ignore[arg-type]
    with socket.create_connection(listener.getsockname()):
        door.acceptor.start()
        await wait_until_async(lambda: door.shortages, 5, "the shortage")
        door.close()
        await asyncio.sleep(0.3)  # longer than it would stand back
        assert [] == door.came


def test_accepted_sockets_inherit_the_options(listener: socket.socket) -> None:
    """Keepalive and no delay are set once, on the listener."""
    with socket.create_connection(listener.getsockname()) as client:
        listener.setblocking(True)
        sock, _ = listener.accept()
        assert 1 == sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert 1 == sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        reset_on_close(sock)
        sock.close()
        with pytest.raises(ConnectionResetError):
            client.recv(1)


def test_a_taken_address_says_what_to_do(listener: socket.socket) -> None:
    """The error names the address and a way out."""
    host, port = listener.getsockname()
    with pytest.raises(ConfigurationError, match=f"{host}:{port}.*ss -ltnp"):
        listen.tcp(Endpoint(host, port))
    with pytest.raises(ConfigurationError, match="no such address"):
        listen.tcp(Endpoint("192.0.2.1", 0))


def test_both_families_of_everywhere() -> None:
    """`0.0.0.0` and `[::]` with one port go together."""
    four = listen.tcp(Endpoint("0.0.0.0", 0))
    six = listen.tcp(Endpoint("::", four.getsockname()[1]))
    six.close()
    four.close()


async def test_names() -> None:
    """An address is itself, a name gives its addresses, an unknown one a sentence."""
    assert ("127.0.0.1", "::1", None) == (literal("127.0.0.1"), literal("::1"), literal("localhost"))
    assert ("192.0.2.7",) == await resolve("192.0.2.7")
    assert "127.0.0.1" in await resolve("localhost")
    failed = await resolve("no-such-host.invalid")
    assert isinstance(failed, str)
    assert "no-such-host.invalid" in failed
