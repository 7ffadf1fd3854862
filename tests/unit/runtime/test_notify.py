"""Telling the service manager, over a real socket."""

import os
import socket
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from rdpbalancer.runtime.notify import Notifier


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, socket.socket]]:
    """Listen as a service manager does; return what `NOTIFY_SOCKET` says, and the socket."""
    name = str(tmp_path / "notify") if request.param == "path" else f"@rdpbalancer-{uuid.uuid4()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind("\0" + name[1:] if name.startswith("@") else name)
        sock.settimeout(5)
        yield name, sock


def test_fields_are_lines_of_one_datagram(manager: tuple[str, socket.socket]) -> None:
    """`READY=1` and a status; as sd_notify(3) has it."""
    name, sock = manager
    notifier = Notifier({"NOTIFY_SOCKET": name})
    notifier.send(READY=1, STATUS="3 sessions, 2 of 2 real servers usable")
    assert b"READY=1\nSTATUS=3 sessions, 2 of 2 real servers usable" == sock.recv(4096)
    notifier.send(STOPPING=1)
    assert b"STOPPING=1" == sock.recv(4096)


def test_descriptors_are_stored_and_forgotten_by_name(manager: tuple[str, socket.socket]) -> None:
    """What is stored is the very socket."""
    name, sock = manager
    notifier = Notifier({"NOTIFY_SOCKET": name})
    with socket.create_server(("127.0.0.1", 0)) as listener:
        notifier.store("listener-127.0.0.1.3389", listener)
        message, descriptors, _, _ = socket.recv_fds(sock, 4096, 4)
        assert b"FDSTORE=1\nFDNAME=listener-127.0.0.1.3389" == message
        with socket.socket(fileno=descriptors[0]) as stored:
            assert listener.getsockname() == stored.getsockname()
    notifier.forget("listener-127.0.0.1.3389")
    assert b"FDSTOREREMOVE=1\nFDNAME=listener-127.0.0.1.3389" == sock.recv(4096)


@pytest.mark.parametrize("address", ["", "/nowhere/notify", "@nobody-listens-here", "x" * 200])
def test_without_a_manager_nothing_happens(address: str) -> None:
    """In a terminal, in a container, or with a manager that is gone."""
    notifier = Notifier({"NOTIFY_SOCKET": address} if address else {})
    notifier.send(READY=1)
    notifier.forget("x")


def test_a_manager_that_does_not_read_keeps_nobody_waiting(tmp_path: Path) -> None:
    """The supervisor never blocks, whoever does not listen."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify")})
        for _ in range(1000):  # more than any queue of datagrams holds
            notifier.send(WATCHDOG=1)


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, 0),
        ({"WATCHDOG_USEC": "30000000"}, 30),
        ({"WATCHDOG_USEC": "1500000", "WATCHDOG_PID": str(os.getpid())}, 1.5),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, 0),
        ({"WATCHDOG_USEC": "soon"}, 0),
        ({"WATCHDOG_USEC": "-1"}, 0),
        ({"WATCHDOG_USEC": "0"}, 0),
    ],
)
def test_the_watchdog_is_meant_for_us_or_not(environ: dict[str, str], expected: float) -> None:
    """Its time in seconds; 0: there is none."""
    assert expected == Notifier(environ).watchdog_s
