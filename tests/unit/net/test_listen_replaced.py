"""A listener that another one replaces: nobody is refused, nobody reset."""

import socket

import pytest

from rdpbalancer.model import Endpoint
from rdpbalancer.net import listen
from tests.support.processes import free_port

FAMILIES = [("127.0.0.1", "0.0.0.0"), ("::1", "::")]


@pytest.fixture(params=FAMILIES, ids=["ipv4", "ipv6"])
def hosts(request: pytest.FixtureRequest) -> tuple[str, str]:
    """One address, and every address of its family."""
    narrow, wide = request.param
    return narrow, wide


def connecting(family: int, address: tuple[str, int]) -> socket.socket:
    """Return a client that has sent its SYN."""
    client = socket.socket(family, socket.SOCK_STREAM)
    client.setblocking(False)
    client.connect_ex(address)
    return client


def test_a_connection_that_comes_while_a_listener_is_replaced(hosts: tuple[str, str]) -> None:
    """The old listener ignores it, and the new one takes it; closing the old one resets nobody."""
    narrow, wide = hosts
    # Not port 0: what the kernel gives for one address may be in use on another.
    with listen.tcp(Endpoint(narrow, free_port("0.0.0.0"))) as old:
        address = old.getsockname()[:2]
        with listen.tcp(Endpoint(wide, address[1]), beside=[old]) as new:
            listen.ignore_new(old)
            with connecting(old.family, address) as client:
                with pytest.raises(BlockingIOError):
                    old.accept()
                old.close()
                new.settimeout(5)
                taken, peer = new.accept()
                with taken:
                    client.settimeout(5)
                    assert client.getsockname()[:2] == peer[:2]
                    taken.sendall(b"hello")
                    assert b"hello" == client.recv(5)


def test_a_handshake_that_was_finished_before_is_still_accepted(hosts: tuple[str, str]) -> None:
    """What lies in the listener's queue is taken as ever, and works in both directions."""
    with listen.tcp(Endpoint(hosts[0], 0)) as old, socket.create_connection(old.getsockname()[:2]) as client:
        listen.ignore_new(old)
        taken, _ = old.accept()
        with taken:
            taken.settimeout(5)
            client.sendall(b"one")
            assert b"one" == taken.recv(3)
            taken.sendall(b"two")
            assert b"two" == client.recv(3)
