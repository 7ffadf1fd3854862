"""When the supervisor starts a process again, and when it thinks one is stuck."""

import socket
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from rdpbalancer.ipc import relay_messages, router_messages
from rdpbalancer.runtime import running_config
from rdpbalancer.runtime.notify import Notifier
from rdpbalancer.runtime.program import Program
from rdpbalancer.runtime.supervisor import HANG_S, Supervisor
from rdpbalancer.tasks import cancel_and_wait, spawn
from rdpbalancer.telemetry.events import Events
from tests.support.wait import wait_until_async


class Clock:
    """The part of an event loop that restarts are timed by."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.later: list[tuple[float, Callable[[], None]]] = []

    def time(self) -> float:
        """Return the time."""
        return self.now

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> None:
        """Note what is to be done when."""
        self.later.append((delay_s, callback))


class FakeChild:
    """A process that answers or does not."""

    def __init__(self, role: str, answered_at: float) -> None:
        self.role = role
        self.pid = 4711
        self.answered_at = answered_at
        self.killed = False
        self.retiring = False
        self.heard: list[msgspec.Struct] = []
        self.channel = SimpleNamespace(send=self.heard.append)

    def kill(self) -> None:
        """Be killed."""
        self.killed = True


@pytest.fixture
async def clock() -> Clock:
    """Return a clock at 1000 s."""
    return Clock()


@pytest.fixture
async def supervisor(tmp_path: Path, clock: Clock) -> Supervisor:
    """Return a supervisor that has started nothing."""
    path = tmp_path / "rdpbalancer.yaml"
    path.write_text(
        f"global: {{runtime_dir: {tmp_path}, state_dir: {tmp_path}, relays: 2}}\n"
        "virtual_services: [{name: ts, listen: '127.0.0.1:0',"
        " real_servers: [{name: a, address: '192.0.2.1:3389'}]}]\n"
    )
    made = Supervisor(
        running_config.read(path, environ={}),
        events=Events(),
        notifier=Notifier({}),
        program=Program(sys.executable, "1.0"),
    )
    made._loop = clock  # type: ignore[assignment]
    return made


def nothing() -> None:
    """Start nothing."""


def test_the_first_restart_is_at_once_and_later_ones_take_their_time(
    supervisor: Supervisor, clock: Clock
) -> None:
    """A process that keeps dying does not fill the log; the pause has an upper bound."""
    started: list[int] = []
    for number in range(8):
        supervisor._restart("relay", partial(started.append, number))
    assert [0.0, 0.1, 0.5, 1.0, 2.0, 5.0, 5.0, 5.0] == [delay_s for delay_s, _ in clock.later]
    for _, callback in clock.later:
        callback()
    assert list(range(8)) == started


def test_a_process_that_cannot_be_started_is_tried_again(supervisor: Supervisor, clock: Clock) -> None:
    """A machine without a process or descriptor to spare has one later."""

    def no_process() -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    supervisor._restart("router", no_process)
    for _ in range(3):
        clock.later[-1][1]()
    assert [0.0, 0.1, 0.5, 1.0] == [delay_s for delay_s, _ in clock.later]


def test_a_process_that_lived_long_is_started_at_once(supervisor: Supervisor, clock: Clock) -> None:
    """What died a minute ago counts no more."""
    for _ in range(5):
        supervisor._restart("relay", nothing)
    clock.now += 59
    supervisor._restart("relay", nothing)
    assert 5.0 == clock.later[-1][0]
    clock.now += 61
    supervisor._restart("relay", nothing)
    assert 0.0 == clock.later[-1][0]


def test_routers_and_relays_do_not_wait_for_each_other(supervisor: Supervisor, clock: Clock) -> None:
    """A relay that keeps dying delays no router."""
    for _ in range(5):
        supervisor._restart("relay", nothing)
    supervisor._restart("router", nothing)
    assert 0.0 == clock.later[-1][0]


async def test_all_that_died_is_started_where_the_way_back_is_closed(
    supervisor: Supervisor, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new version whose relays died, and whose predecessor does not start, goes on with its own."""
    started: list[str] = []
    monkeypatch.setattr(supervisor, "_adjust_relays", lambda: started.append("relay"))
    monkeypatch.setattr(supervisor, "_start_router", lambda: started.append("router"))
    supervisor._before = Program(str(tmp_path / "python-that-was-removed"), "0.9")
    supervisor._going_back = True
    supervisor._start_missing_relays()
    assert [] == started
    await supervisor._go_back("its relay ended: exit status 1")
    for _, callback in clock.later:
        callback()
    assert {"router", "relay"} == set(started)
    assert ["upgrade_reverting", "upgrade_not_reverted"] == [
        event["event"] for event in supervisor._events.recent()
    ]


@pytest.mark.parametrize(
    ("role", "ping"),
    [("router", router_messages.PingRouter), ("relay", relay_messages.PingRelay)],
    ids=["router", "relay"],
)
def test_a_process_whose_loop_stands_still_is_killed(supervisor: Supervisor, role: str, ping: type) -> None:
    """One that answers is asked again; one that has not for too long is told in the log, and killed."""
    lively, stuck = FakeChild(role, 1000.0), FakeChild(role, 1000.0)
    supervisor._ping_one(lively, 1000.0 + HANG_S)  # type: ignore[arg-type]
    supervisor._ping_one(stuck, 1000.1 + HANG_S)  # type: ignore[arg-type]
    assert (False, True) == (lively.killed, stuck.killed)
    assert ([ping], []) == ([type(message) for message in lively.heard], stuck.heard)
    (event,) = supervisor._events.recent()
    assert ("process_stuck", role, 4711) == (event["event"], event["role"], event["pid"])


@pytest.mark.parametrize("stopping", [False, True])
def test_sighup_at_a_stop_reloads_nothing(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch, *, stopping: bool
) -> None:
    """It may come from logrotate, in a drain of hours: the log is opened anew, and nobody is let in."""
    monkeypatch.setattr(supervisor, "_reopen_log", nothing)
    router = FakeChild("router", 1000.0)
    supervisor._router = router  # type: ignore[assignment]
    supervisor.router_ready, supervisor._stopping = True, stopping
    supervisor._reload()
    expected = (
        [router_messages.ReopenLog] if stopping else [router_messages.ReopenLog, router_messages.Reload]
    )
    assert expected == [type(message) for message in router.heard]


def watched(tmp_path: Path) -> tuple[socket.socket, Notifier]:
    """Return a service manager's socket and a notifier with a watchdog."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    sock.bind(str(tmp_path / "notify"))
    return sock, Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "30000000"})


@pytest.mark.parametrize(
    ("ready", "stopping", "router", "answered", "expected"),
    [
        (True, False, True, 1000.0, True),
        (True, False, False, 1000.0, False),
        (True, False, True, 1000.0 - HANG_S, False),
        (False, False, False, 1000.0, True),
        (True, True, False, 1000.0, True),
    ],
    ids=["lively", "no-router", "a-stuck-one", "still-starting", "stopping"],
)
async def test_the_watchdog_is_answered_while_every_loop_turns(
    *,
    supervisor: Supervisor,
    tmp_path: Path,
    ready: bool,
    stopping: bool,
    router: bool,
    answered: float,
    expected: bool,
) -> None:
    """A service manager restarts what is frozen, not what is starting or stopping."""
    sock, supervisor._notifier = watched(tmp_path)
    supervisor._ready, supervisor._stopping = ready, stopping
    supervisor._router = FakeChild("router", answered) if router else None  # type: ignore[assignment]
    supervisor._answer_watchdog(1000.0)
    with sock:
        try:
            heard = sock.recv(100)
        except BlockingIOError:
            heard = b""
    assert (b"WATCHDOG=1" if expected else b"") == heard


async def test_a_supervisor_that_stood_still_blames_nobody(supervisor: Supervisor, clock: Clock) -> None:
    """A suspended machine wakes up; its processes are given their time again."""
    child = FakeChild("router", clock.now)
    supervisor._router = child  # type: ignore[assignment]

    class Jumping(Clock):
        """A clock that jumps by an hour each time it is asked."""

        def time(self) -> float:
            self.now += 3600
            return self.now

    supervisor._loop = Jumping()  # type: ignore[assignment]
    pinging = spawn(supervisor._ping(), name="ping children")
    await wait_until_async(lambda: child.heard or child.killed, 10, "a ping")
    await cancel_and_wait(pinging)
    assert not child.killed
