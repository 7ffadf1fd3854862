"""Writing without waiting for whoever reads."""

import fcntl
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rdpbalancer.telemetry.writer import Writer
from tests.support.wait import wait_until

_F_SETPIPE_SZ = 1031


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A small pipe: its reading and its writing end."""
    ends = os.pipe()
    fcntl.fcntl(ends[1], _F_SETPIPE_SZ, 4096)
    yield ends
    for end in ends:
        try:
            os.close(end)
        except OSError:
            continue  # the test has closed it


def test_lines_arrive_whole_and_in_order(pipe: tuple[int, int]) -> None:
    """Far more than the pipe holds, while somebody reads."""
    reader, descriptor = pipe
    writer = Writer(descriptor)
    read: list[bytes] = []
    reading = threading.Thread(target=lambda: read.extend(iter(lambda: os.read(reader, 1000), b"")))
    reading.start()
    for number in range(2000):
        assert 10 == writer.write(f"{number:09}\n")
    assert writer.drain(10)
    writer.close(1)
    os.close(descriptor)
    reading.join(10)
    assert [f"{number:09}" for number in range(2000)] == b"".join(read).decode().splitlines()
    assert (0, "") == (writer.lost, writer.trouble())


def test_whoever_logs_does_not_wait_for_a_reader_that_has_stopped(pipe: tuple[int, int]) -> None:
    """What is beyond the bound is lost, and counted in lines."""
    _, descriptor = pipe
    writer = Writer(descriptor, limit_bytes=10_000)
    began_at = time.thread_time()
    for _ in range(1000):
        writer.write("x" * 99 + "\n")
    assert time.thread_time() - began_at < 1
    assert 850 < writer.lost < 1000
    assert not writer.drain(0.01)
    lost = writer.lost
    writer.write("one\ntwo\n" * 2000)
    assert lost + 4000 == writer.lost
    writer.close(0.01)
    wait_until(lambda: os.read(pipe[0], 100_000) and writer.ended, 5, "the writer has ended")
    assert 900 <= writer.lost - 4000 <= 1000


def test_a_full_disk_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its error is the trouble; what waited is written when there is room again."""
    monkeypatch.setattr("rdpbalancer.telemetry.writer._RETRY_S", 0.01)
    path = tmp_path / "log"
    full = threading.Event()
    full.set()
    write = os.write

    def with_room(descriptor: int, data: bytes) -> int:
        if full.is_set():
            raise OSError(28, "No space left on device")
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", with_room)
    writer = Writer(os.open(path, os.O_WRONLY | os.O_CREAT), owned=True)
    writer.write("a line\n")
    wait_until(lambda: writer.trouble() == "No space left on device", 5, "the trouble")
    full.clear()
    assert writer.drain(5)
    assert ("", 0, "a line\n") == (writer.trouble(), writer.lost, path.read_text())
    writer.close(1)
    assert writer.ended
    writer.write("too late\n")
    assert 1 == writer.lost


def test_nobody_has_read_for_long_is_trouble(pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Not for a moment: that is what the queue is for."""
    monkeypatch.setattr("rdpbalancer.telemetry.writer._STUCK_S", 0.05)
    writer = Writer(pipe[1])
    writer.write("x" * 10_000 + "\n")
    wait_until(lambda: "nobody has read it for" in writer.trouble(), 5, "the trouble")
    os.read(pipe[0], 100_000)
    wait_until(lambda: not writer.trouble() or os.read(pipe[0], 100_000) == b"", 5, "no trouble")
    writer.close(0.1)


def test_a_reader_that_is_gone_leaves_another_way(pipe: tuple[int, int], tmp_path: Path) -> None:
    """As a relay has one, whose supervisor has become another program."""
    os.close(pipe[0])
    other = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
    writer = Writer(pipe[1], otherwise=other)
    writer.write("a line\n")
    assert writer.drain(5)
    assert "a line\n" == (tmp_path / "log").read_text()
    writer.close(1)
    os.close(other)


def test_a_shared_descriptor_is_not_closed(pipe: tuple[int, int]) -> None:
    """Standard error is everybody's."""
    writer = Writer(pipe[1])
    assert writer.is_for(pipe[1])
    writer.write("x\n")
    writer.close(5)
    assert writer.ended
    os.write(pipe[1], b"still open\n")
    assert b"x\nstill open\n" == os.read(pipe[0], 100)
