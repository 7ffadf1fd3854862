"""Listening sockets from the service manager, as sd_listen_fds(3) describes them."""

import json
import os
import socket
import subprocess
import sys
from typing import Any

import pytest

from rdpbalancer.runtime.socket_activation import activated, store_name

# The descriptors begin at 3, which only a process of its own can arrange.
_CHILD = """
import json, os, sys
from rdpbalancer.runtime.socket_activation import activated
given = [int(number) for number in sys.argv[2:]]
high = [os.dup2(descriptor, 100 + index) for index, descriptor in enumerate(given)]
for index, descriptor in enumerate(high):
    os.dup2(descriptor, 3 + index)
    os.close(descriptor)
environ = {"LISTEN_FDS": str(len(given)), "LISTEN_FDNAMES": "a:b", "OTHER": "stays",
           "LISTEN_PID": str(os.getpid() + int(sys.argv[1]))}
found = activated(environ)
def is_open(descriptor):
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True
print(json.dumps({
    "found": [[name, sock.fileno(), sock.getblocking(), sock.get_inheritable()] for name, sock in found],
    "open": [is_open(3 + index) for index in range(len(given))],
    "environ": environ,
}))
"""


def _in_a_child(*sockets: socket.socket, other_pid: int = 0) -> dict[str, Any]:
    descriptors = [sock.fileno() for sock in sockets]
    command = [sys.executable, "-c", _CHILD, str(other_pid), *map(str, descriptors)]
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, pass_fds=descriptors, timeout=30
    )
    said: dict[str, Any] = json.loads(done.stdout)
    return said


def test_listeners_are_taken_and_the_rest_is_closed() -> None:
    """Only TCP sockets that listen; with their addresses, non-blocking, and not for children."""
    with (
        socket.create_server(("127.0.0.1", 0)) as ipv4,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
        socket.socket(socket.AF_INET, socket.SOCK_STREAM) as idle,
        socket.create_server(("::1", 0), family=socket.AF_INET6) as ipv6,
    ):
        said = _in_a_child(ipv4, udp, idle, ipv6)
        addresses = [f"127.0.0.1:{ipv4.getsockname()[1]}", f"[::1]:{ipv6.getsockname()[1]}"]
    assert [[addresses[0], 3, False, False], [addresses[1], 6, False, False]] == said["found"]
    assert [True, False, False, True] == said["open"]
    assert {"OTHER": "stays"} == said["environ"]


def test_sockets_that_are_meant_for_another_process() -> None:
    """Variables that were inherited by mistake: the descriptors are somebody else's."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        said = _in_a_child(listener, other_pid=1)
    assert ([], [True], {"OTHER": "stays"}) == (said["found"], said["open"], said["environ"])


@pytest.mark.parametrize("count", ["", "-1", "many", "0"])
def test_no_sockets(count: str) -> None:
    """Without a service manager, or with nonsense from it."""
    environ = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": count}
    assert [] == activated(environ)
    assert {} == environ


@pytest.mark.parametrize(
    ("address", "expected"),
    [("10.0.0.1:3389", "listener-10.0.0.1.3389"), ("[fd00::1]:3389", "listener-fd00..1.3389")],
)
def test_a_name_for_the_store(address: str, expected: str) -> None:
    """FDNAME= takes no colon."""
    assert expected == store_name(address)
