"""The end-to-end tests' own tools: they must notice what they are there to notice."""

import os
import socket
import sys
import time
from pathlib import Path

import pytest

from rdpbalancer.model import Endpoint
from tests.e2e.forwarder import Forwarder
from tests.support.processes import Processes, RealProcess, free_ports, is_alive, is_listening
from tests.support.programs import require
from tests.support.wait import wait_until, wait_until_async

# Becomes a daemon as xrdp or HAProxy would: another session, no parent, and it outlives its starter.
_DAEMON = """
import os, signal
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        print(os.getpid(), flush=True)
        signal.pause()
    os._exit(0)
"""


def test_a_condition_that_comes_true_is_returned() -> None:
    """What the predicate gave is what the caller gets."""
    answers = iter(["", "", "here"])
    assert "here" == wait_until(lambda: next(answers), 5, "an answer")


def test_a_condition_that_stays_false_fails_with_its_words() -> None:
    """The failure says what was waited for, and what was seen instead."""
    began_at = time.monotonic()
    with pytest.raises(AssertionError, match=r"not within 0\.1 s: the moon \(last seen: \[\]\)"):
        wait_until(list, 0.1, lambda: "the moon")
    assert time.monotonic() - began_at >= 0.1


async def test_coroutines_are_waited_for_too() -> None:
    """The asynchronous wait takes either kind of predicate."""
    answers = iter([0, 1, 2])

    async def asked() -> int:
        return next(answers)

    assert 1 == await wait_until_async(asked, 5, "one")
    assert 2 == await wait_until_async(lambda: next(answers), 5, "two")
    with pytest.raises(AssertionError, match="the moon"):
        await wait_until_async(list, 0.05, "the moon")


def test_a_process_that_ends_early_fails_the_wait_at_once(tmp_path: Path) -> None:
    """Nobody waits for the port of a program that has died, and its last words are shown."""
    with Processes(tmp_path) as processes:
        process = processes.start(sys.executable, "-c", "raise SystemExit('bad option')")
        with pytest.raises(AssertionError, match=r"ended before: a listener on port 1;.*bad option"):
            process.wait_for_port(1, timeout_s=30)


def test_a_daemon_left_behind_fails_the_test_and_is_ended(tmp_path: Path) -> None:
    """A child is found though it has left the session and lost its parent."""
    processes = Processes(tmp_path)
    process = processes.start(sys.executable, "-c", _DAEMON)
    process.wait(10)
    daemon = int(wait_until(process.output, 5, "the daemon's process id"))
    assert [daemon] == process.children()
    with pytest.raises(AssertionError, match="left children behind"):
        processes.__exit__(None, None, None)
    assert not is_alive(daemon)


def test_stopping_ends_a_process_that_heeds_no_signal(tmp_path: Path) -> None:
    """SIGTERM first, SIGKILL after the grace."""
    program = "import signal as s; s.signal(s.SIGTERM, s.SIG_IGN); print('up', flush=True); s.pause()"
    process = RealProcess([sys.executable, "-c", program], log=tmp_path / "log")
    process.wait_for_output("up")
    assert -9 == process.stop(grace_s=0.2)
    assert [] == process.kill_children()


def test_listeners_are_seen_without_being_called() -> None:
    """A port is listening while somebody listens, and no connection arrives from the asking."""
    port, other = free_ports(2)
    assert port != other
    with socket.create_server(("127.0.0.1", port)) as listener:
        assert is_listening(port)
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()
    assert not is_listening(port)


def test_a_missing_program_skips_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """The skip names the Debian package, not only the program."""
    assert os.path.isabs(require("sh"))  # noqa: PTH117 - a string is asked
    monkeypatch.setattr("tests.support.programs._SEARCH_PATH", "/nonexistent")
    with pytest.raises(pytest.skip.Exception, match="xfreerdp is missing: apt-get install freerdp2-x11"):
        require("xfreerdp")


def test_the_forwarder_connects_from_the_given_address_and_counts() -> None:
    """Servers see the source address that was asked for; bytes and ends go both ways."""
    with (
        socket.create_server(("127.0.0.1", 0)) as target,
        Forwarder(Endpoint(*target.getsockname()), source="127.0.0.2") as forwarder,
        socket.create_connection(forwarder.endpoint, timeout=5) as client,
    ):
        server, (source, _) = target.accept()
        with server:
            client.sendall(b"there")
            assert b"there" == server.recv(100)
            server.sendall(b"back")
            assert b"back" == client.recv(100)
            client.shutdown(socket.SHUT_WR)
            assert b"" == server.recv(100)
        assert "127.0.0.2" == source
        assert 1 == forwarder.connections
        assert b"" == client.recv(100)
