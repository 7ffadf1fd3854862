"""The systemd unit: hardened, without a complaint of systemd's own, and true to what the service does."""

import asyncio
import contextlib
import itertools
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import pytest

from rdpbalancer.lab.client import LabClient
from rdpbalancer.lab.opening import LabOpening
from rdpbalancer.lab.server import LabServer
from rdpbalancer.wire.confirm import build_request
from tests.support.balancer import Balancer
from tests.support.processes import Processes, RealProcess, free_port
from tests.support.programs import require
from tests.support.unitfile import SERVICE
from tests.support.wait import wait_until, wait_until_async

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(60)]

_REPOSITORY: Final = Path(__file__).parents[2]
_MOST_EXPOSURE: Final = 2.0
# What Windows answers, TLS and NLA chosen (MS-RDPBCGR 2.2.1.2).
_CONFIRM: Final = bytes.fromhex("030000130ed00000123400021f080002000000")
_START_S: Final = 20.0


class ServiceManager:
    """The receiving end of sd_notify(3)."""

    def __init__(self, path: Path) -> None:
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sock.bind(str(path))
        self.environment = {"NOTIFY_SOCKET": str(path)}
        self.heard: list[tuple[float, dict[str, str]]] = []
        self.kept: dict[str, str] = {}  # address of a kept listener, by its name in the store

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._sock.close()

    def listen(self, timeout_s: float) -> dict[str, str] | None:
        """Return the next message's fields, or None if there is none in time."""
        self._sock.settimeout(timeout_s)
        try:
            data, descriptors, _, _ = socket.recv_fds(self._sock, 4096, 1)
        except (TimeoutError, BlockingIOError):
            return None
        fields = dict(line.split("=", 1) for line in data.decode().splitlines())
        self.heard.append((time.monotonic(), fields))
        for descriptor in descriptors:
            with socket.socket(fileno=descriptor) as listener:
                self.kept[fields["FDNAME"]] = _address(listener)
        if "FDSTOREREMOVE" in fields:
            del self.kept[fields["FDNAME"]]
        return fields

    def wait_for(self, field: str, timeout_s: float = _START_S) -> dict[str, str]:
        """Return the next message that has `field`."""

        def said() -> dict[str, str] | None:
            message = self.listen(0.2)
            return message if message is not None and field in message else None

        return wait_until(said, timeout_s, lambda: f"{field}, after {self.heard}")

    def told(self, field: str) -> list[float]:
        """Take in what has come so far, and return when `field` was said."""
        while self.listen(0.0) is not None:
            continue
        return [at for at, fields in self.heard if field in fields]


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[ServiceManager]:
    """A service manager to be told."""
    with ServiceManager(tmp_path / "notify") as listening:
        yield listening


@pytest.fixture
def terminal_server() -> Iterator[socket.socket]:
    """A listening socket in place of a terminal server: the test itself answers, or does not."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(_START_S)
        yield listener


def _balancer(folder: Path, address: str, **service: object) -> Balancer:
    folder.mkdir()
    farm = {"name": "farm", "real_servers": [{"name": "ts1", "address": address}], **service}
    return Balancer(folder, [farm])


def _start(
    balancer: Balancer, processes: Processes, environment: dict[str, str], *before: str
) -> RealProcess:
    argv = [*before, sys.executable, "-m", "rdpbalancer", "run", "-c", str(balancer.configuration)]
    balancer.process = processes.start(*argv, env=environment, cwd=_REPOSITORY)
    return balancer.process


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()
    return f"{host}:{port}"


def _answer(listener: socket.socket) -> bytes:
    """Take the next connection, confirm what it asks, and return that."""
    sock, _ = listener.accept()
    with sock:
        sock.settimeout(_START_S)
        asked = sock.recv(4096)
        sock.sendall(_CONFIRM)
        return asked


# ---- what systemd says of it ---------------------------------------------------------------------------


def test_the_unit_is_hardened() -> None:
    """`systemd-analyze security` gives the unit an exposure of at most 2.0 of 10."""
    command = [require("systemd-analyze"), "security", "--offline=true", "--no-pager", str(SERVICE)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=30)
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    assert found is not None, done.stdout + done.stderr
    assert float(found[1]) <= _MOST_EXPOSURE, done.stdout


def test_systemd_has_nothing_to_say_against_the_unit(tmp_path: Path) -> None:
    """`systemd-analyze verify` accepts it without a word, once its program is where it says."""
    program = f"{Path(sys.executable).parent}/rdpbalancer"
    copy = tmp_path / SERVICE.name
    copy.write_text(SERVICE.read_text().replace("/opt/rdpbalancer/bin/rdpbalancer", program))
    command = [require("systemd-analyze"), "verify", "--man=no", str(copy)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=30)
    assert (0, "") == (done.returncode, done.stderr)


def test_systemd_accepts_the_user(tmp_path: Path) -> None:
    """`systemd-sysusers` would add the unit's user."""
    folder = tmp_path / "usr" / "lib" / "sysusers.d"
    folder.mkdir(parents=True)
    (folder / "rdpbalancer.conf").write_bytes(SERVICE.with_suffix(".sysusers").read_bytes())
    command = [require("systemd-sysusers"), "--dry-run", f"--root={tmp_path}"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=30)
    assert 0 == done.returncode, done.stderr
    assert "Creating user 'rdpbalancer'" in done.stderr


# ---- Type=notify ---------------------------------------------------------------------------------------


def test_ready_is_said_when_connections_are_taken(
    manager: ServiceManager, terminal_server: socket.socket, processes: Processes, tmp_path: Path
) -> None:
    """READY=1 waits for the servers' first check; a client that came earlier is served right after it."""
    checks = {"type": "rdp", "timeout": "30s", "interval": "60s"}
    balancer = _balancer(tmp_path / "b", _address(terminal_server), health_check=checks)
    process = _start(balancer, processes, manager.environment)
    probe, _ = terminal_server.accept()
    with probe, socket.create_connection(balancer.endpoint("farm"), timeout=_START_S) as client:
        client.sendall(build_request(cookie=b"alice"))
        assert [] == manager.told("READY"), "said before any server could be used"
        probe.recv(4096)
        probe.sendall(_CONFIRM)
        ready = manager.wait_for("READY")
        assert b"mstshash=alice" in _answer(terminal_server)
        assert _CONFIRM == client.recv(4096)
    assert {"READY": "1", "STATUS": "0 sessions, 1 of 1 real servers usable"} == ready

    process.stop()
    assert {"STOPPING": "1", "STATUS": "stopping"} == manager.wait_for("STOPPING")
    assert 0 == process.returncode
    assert [] == manager.told("WATCHDOG"), "nobody asked for it"


def test_stopping_is_said_before_sessions_have_ended(
    manager: ServiceManager, terminal_server: socket.socket, processes: Processes, tmp_path: Path
) -> None:
    """STOPPING=1 comes with SIGTERM; a session still has its time, and the service ends after it."""
    balancer = _balancer(tmp_path / "b", _address(terminal_server), health_check={"type": "none"})
    process = _start(balancer, processes, manager.environment)
    manager.wait_for("READY")
    with socket.create_connection(balancer.endpoint("farm"), timeout=_START_S) as client:
        client.sendall(build_request(cookie=b"alice"))
        server, _ = terminal_server.accept()
        with server:
            server.sendall(_CONFIRM)
            assert _CONFIRM == client.recv(4096)
            wait_until(balancer.sessions, _START_S, "the session is in the books")
            os.kill(process.pid, signal.SIGTERM)
            manager.wait_for("STOPPING")
            client.sendall(b"still here")
            server.settimeout(_START_S)
            while not server.recv(4096).endswith(b"still here"):
                continue
            assert process.returncode is None
    assert 0 == process.wait(_START_S)


def test_a_reload_says_nothing_to_the_service_manager(
    manager: ServiceManager, terminal_server: socket.socket, processes: Processes, tmp_path: Path
) -> None:
    """SIGHUP applies the file; the service stays ready throughout."""
    balancer = _balancer(tmp_path / "b", _address(terminal_server), health_check={"type": "none"})
    process = _start(balancer, processes, manager.environment)
    manager.wait_for("READY")
    balancer.services[0]["real_servers"] = [{"name": "ts2", "address": _address(terminal_server)}]
    balancer.write_configuration()
    os.kill(process.pid, signal.SIGHUP)
    process.wait_for_output(r'"event": ?"reloaded"')
    assert ["ts2"] == [row["name"] for row in balancer.cli("show", "servers", "--json")]
    assert 1 == len(manager.told("READY"))
    assert [] == manager.told("RELOADING") + manager.told("STOPPING")


def test_listeners_are_kept_by_the_service_manager(
    manager: ServiceManager, terminal_server: socket.socket, processes: Processes, tmp_path: Path
) -> None:
    """Every TCP listener is kept by systemd over a crash, and a reload changes what is kept."""
    balancer = _balancer(tmp_path / "b", _address(terminal_server), health_check={"type": "none"})
    process = _start(balancer, processes, manager.environment)
    manager.wait_for("READY")
    first = str(balancer.endpoint("farm"))
    assert sorted([first, str(balancer.metrics)]) == sorted(manager.kept.values())

    second = f"127.0.0.1:{free_port()}"
    balancer.services[0]["listen"] = second
    balancer.write_configuration()
    os.kill(process.pid, signal.SIGHUP)
    process.wait_for_output(r'"event": ?"reloaded"')
    manager.wait_for("FDSTOREREMOVE")
    assert sorted([second, str(balancer.metrics)]) == sorted(manager.kept.values())


# ---- WatchdogSec ---------------------------------------------------------------------------------------


def _router(balancer: Balancer) -> int:
    status: dict[str, int] = balancer.cli("status", "--json")
    return status["router"]


@pytest.mark.slow
def test_the_watchdog_is_not_answered_for_a_router_that_stands_still(
    manager: ServiceManager, terminal_server: socket.socket, processes: Processes, tmp_path: Path
) -> None:
    """A router that is stuck for ten seconds is replaced; in between the watchdog misses an answer."""
    balancer = _balancer(tmp_path / "b", _address(terminal_server), health_check={"type": "none"})
    process = _start(balancer, processes, {**manager.environment, "WATCHDOG_USEC": "30000000"})
    manager.wait_for("READY")
    manager.wait_for("WATCHDOG")
    manager.wait_for("WATCHDOG")
    stuck = _router(balancer)
    os.kill(stuck, signal.SIGSTOP)
    manager.wait_for("READY", 30)
    manager.wait_for("WATCHDOG")

    assert stuck != _router(balancer)
    assert '"process_stuck"' in process.output()
    answers = manager.told("WATCHDOG")
    longest_s = max(later - earlier for earlier, later in itertools.pairwise(answers))
    assert longest_s > 1.5, f"one answer a second should have been left out: {answers}"


def test_the_watchdog_is_not_answered_by_a_supervisor_that_stands_still(
    manager: ServiceManager, terminal_server: socket.socket, processes: Processes, tmp_path: Path
) -> None:
    """Nobody answers for a stopped supervisor, and when it goes on it blames nobody."""
    balancer = _balancer(tmp_path / "b", _address(terminal_server), health_check={"type": "none"})
    process = _start(balancer, processes, {**manager.environment, "WATCHDOG_USEC": "30000000"})
    manager.wait_for("READY")
    manager.wait_for("WATCHDOG")
    router = _router(balancer)
    os.kill(process.pid, signal.SIGSTOP)
    try:
        answered = manager.told("WATCHDOG")
        assert manager.listen(3.0) is None
        assert answered == manager.told("WATCHDOG")
    finally:
        os.kill(process.pid, signal.SIGCONT)
    manager.wait_for("WATCHDOG")
    assert router == _router(balancer)


# ---- the sandbox ---------------------------------------------------------------------------------------


def _confined(process: RealProcess) -> set[str]:
    """Return what the kernel says of the filters of the process and its children (2: one is in force)."""
    found = set()
    for pid in [process.pid, *process.children()]:
        with contextlib.suppress(OSError):
            text = Path(f"/proc/{pid}/status").read_text()
            found |= set(re.findall(r"^(?:Seccomp|NoNewPrivs):\t(\d)", text, re.MULTILINE))
    return found


async def test_the_service_does_its_work_within_the_sandbox(processes: Processes, tmp_path: Path) -> None:
    """A session works from end to end under the unit's system calls, address families and memory rule."""
    require("systemd-analyze")
    sandbox = [sys.executable, "-m", "tests.e2e.service_sandbox"]
    async with LabServer(name="ts1") as server:
        # A name, so that resolving is part of the work.
        balancer = _balancer(tmp_path / "b", f"localhost:{server.endpoint.port}")
        process = _start(balancer, processes, {}, *sandbox)
        await asyncio.to_thread(process.wait_for_output, "router_ready", _START_S)
        assert {"1", "2"} == _confined(process)
        async with LabClient(balancer.endpoint("farm"), LabOpening(cookie="alice")) as client:
            await client.login("alice")
            assert ["ts1"] == [row["server"] for row in await asyncio.to_thread(balancer.sessions)]
            await asyncio.to_thread(balancer.cli, "drain", "ts1")
            await asyncio.to_thread(balancer.cli, "reload")
            await asyncio.to_thread(balancer.cli, "upgrade", "--wait")
            assert ["ts1"] == [row["server"] for row in await asyncio.to_thread(balancer.sessions)]
        await wait_until_async(lambda: "session_closed" in process.output(), 10, "the session's record")
        assert 0 == await asyncio.to_thread(process.stop)
    assert "Traceback" not in process.output()
    assert "state_not_written" not in process.output()
