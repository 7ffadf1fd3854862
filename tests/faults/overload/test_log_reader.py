"""The log of the real service: a reader that has stopped, and defects that nobody has caught."""

import asyncio
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

import pytest

from rdpbalancer.lab.client import LabClient
from rdpbalancer.lab.opening import LabOpening
from tests.support.balancer import Balancer
from tests.support.running_balancer import labs, real_server
from tests.support.wait import wait_until_async

pytestmark = [pytest.mark.faults, pytest.mark.timeout(120)]

_REPOSITORY: Final = Path(__file__).parents[3]
_PIPE_BYTES: Final = 4096
# Python runs this at the start of every process of the service: it fails in the loop, in a thread, and warns.
_FAILS: Final = """
import os, threading, time

def fail():
    raise RuntimeError("in the loop")

def wait_and_fail():
    while not os.path.exists({go!r}):
        time.sleep(0.05)
    import asyncio, gc, warnings
    for loop in [each for each in gc.get_objects() if isinstance(each, asyncio.AbstractEventLoop)]:
        try:
            loop.call_soon_threadsafe(fail)
        except RuntimeError:  # closed
            pass
    warnings.warn("it is old")
    raise ValueError("in a thread")

if "rdpbalancer" in " ".join(os.sys.orig_argv):
    threading.Thread(target=wait_and_fail, daemon=True).start()
"""


class Log:
    """The reading end of the service's standard error."""

    def __init__(self, pipe: int) -> None:
        self._pipe = pipe
        self._text = b""

    def read(self) -> list[dict[str, Any]]:
        """Read what there is; return all events so far. Fails on a line that is no JSON."""
        with suppress(BlockingIOError):
            while data := os.read(self._pipe, 65536):
                self._text += data
        complete, _, _ = self._text.rpartition(b"\n")
        return [json.loads(line) for line in complete.splitlines()]

    def named(self, event: str) -> list[dict[str, Any]]:
        """Return the events of that name."""
        return [each for each in self.read() if each["event"] == event]


def start(balancer: Balancer, log: int) -> subprocess.Popen[bytes]:
    """Start the service with its standard error in a pipe."""
    return subprocess.Popen(
        [sys.executable, "-m", "rdpbalancer", "run", "-c", str(balancer.configuration)],
        stdout=subprocess.DEVNULL,
        stderr=log,
        env={**os.environ, "PYTHONPATH": f"{balancer.folder}:{_REPOSITORY}"},
    )


@asynccontextmanager
async def logging_to_a_pipe(folder: Path, address: str) -> AsyncIterator[tuple[Balancer, Log]]:
    """Run the service with its log in a small pipe that is read only when the test reads."""
    balancer = Balancer(folder, [{"name": "farm", "real_servers": [{"name": "ts1", "address": address}]}])
    reader, writer = os.pipe2(os.O_CLOEXEC)
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    os.set_blocking(reader, False)
    process = start(balancer, writer)
    os.close(writer)
    log = Log(reader)
    try:
        await wait_until_async(balancer._answers, 20, "an answer to `status`")
        yield balancer, log
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            await wait_until_async(lambda: log.read() and process.poll() is not None, 30, "the end")
        finally:
            process.kill()
            process.wait()
            os.close(reader)


async def login(balancer: Balancer, user: str) -> float:
    """Log in and out; return how many seconds that took."""
    began_at = time.monotonic()
    async with LabClient(balancer.endpoint("farm"), LabOpening(cookie=user)) as client:
        await client.leave()
    return time.monotonic() - began_at


async def test_a_log_reader_that_stops_stops_no_login(tmp_path: Path) -> None:
    """Users are served by the same router, `status` says that the log is stuck, and no record is missing.

    The router wrote to the pipe itself: it stood still, was killed after 10 s, and so was the next one.
    """
    async with (
        labs(1) as servers,
        logging_to_a_pipe(tmp_path, real_server(servers[0])["address"]) as (balancer, log),
    ):
        router = balancer.cli("status", "--json")["router"]
        slowest_s, users = 0.0, 0

        async def warned() -> bool:
            nonlocal slowest_s, users
            for _ in range(20):
                slowest_s = max(slowest_s, await login(balancer, f"user{users}"))
                users += 1
            status = await asyncio.to_thread(balancer.cli, "status", "--json")
            return "log-not-written" in [warning["code"] for warning in status["warnings"]]

        await wait_until_async(warned, 30, "a warning of the log")
        assert slowest_s < 5, "a login has waited for whoever reads the log"
        assert router == balancer.cli("status", "--json")["router"]

        (again,) = await wait_until_async(lambda: log.named("log_written_again"), 15, "the log again")
        assert 0 == again["lines_lost"]
        await wait_until_async(lambda: users == len(log.named("session_closed")), 15, "all records")


async def test_defects_of_every_process_are_in_the_log(tmp_path: Path) -> None:
    """What nobody has caught, in a callback or a thread, and what Python warns of: as events, in JSON."""
    go = tmp_path / "go"
    (tmp_path / "sitecustomize.py").write_text(_FAILS.format(go=str(go)))
    async with (
        labs(1) as servers,
        logging_to_a_pipe(tmp_path, real_server(servers[0])["address"]) as (_, log),
    ):
        go.touch()
        processes = ("relay", "router", "supervisor")

        def told() -> Counter[tuple[str, str]]:
            wanted = ("internal_error", "library_message")
            return Counter((each["process"], each["event"]) for each in log.read() if each["event"] in wanted)

        expected = Counter(
            {(process, event): count for process in processes for event, count in _EACH.items()}
        )
        await wait_until_async(lambda: told() >= expected, 20, lambda: f"all defects: {told()}")
        errors = log.named("internal_error")
        assert {"RuntimeError: in the loop", "ValueError: in a thread"} == {each["detail"] for each in errors}
        assert all("Traceback" in each["exception"] for each in errors)


_EACH: Final = {"internal_error": 2, "library_message": 1}
