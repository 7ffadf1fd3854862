"""When the supervisor thinks a process is stuck, and when it answers the service manager's watchdog."""

import socket
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import msgspec
import pytest

from rdpbalancer.ipc import relay_messages, router_messages
from rdpbalancer.runtime.children import Child
from rdpbalancer.runtime.liveness import HANG_S, PING_INTERVAL_S, Liveness
from rdpbalancer.runtime.notify import Notifier
from rdpbalancer.runtime.phase import Phase
from rdpbalancer.tasks import cancel_and_wait, spawn
from rdpbalancer.telemetry.events import Events
from tests.support.wait import wait_until_async

NOW = 1000.0


class FakeChild:
    """A process that answers or does not."""

    def __init__(self, role: str, answered_at: float = NOW) -> None:
        self.role = role
        self.pid = 4711
        self.answered_at = answered_at
        self.killed = False
        self.heard: list[msgspec.Struct] = []
        self.channel = SimpleNamespace(send=self.heard.append)

    def kill(self) -> None:
        """Be killed."""
        self.killed = True


class LivenessFixture:
    """A supervisor's care for these processes, its clock in the test's hand."""

    def __init__(
        self,
        *children: FakeChild,
        notifier: Notifier | None = None,
        every_turn: Callable[[float], None] = lambda _now: None,
        clock: Callable[[], float] = lambda: NOW,
    ) -> None:
        self.children = list(children)
        self.phase = Phase(ready=True)
        self.events = Events()
        self.liveness = Liveness(
            children=lambda: cast("list[Child]", self.children),
            has_router=lambda: any(child.role == "router" for child in self.children),
            phase=self.phase,
            events=self.events,
            notifier=notifier or Notifier({}),
            clock=clock,
            every_turn=every_turn,
        )

    def turn(self, now: float) -> None:
        """Let a second pass and ask."""
        self.liveness.turn(asked_at=now - PING_INTERVAL_S, now=now)


@pytest.mark.parametrize(
    ("role", "ping"),
    [("router", router_messages.PingRouter), ("relay", relay_messages.PingRelay)],
    ids=["router", "relay"],
)
def test_a_process_whose_loop_stands_still_is_killed(role: str, ping: type) -> None:
    """One that answers is asked again; one that has not for too long is told in the log, and killed."""
    lively, stuck = FakeChild(role, NOW), FakeChild(role, NOW - 0.1)
    fixture = LivenessFixture(lively, stuck)
    fixture.turn(NOW + HANG_S)
    assert (False, True) == (lively.killed, stuck.killed)
    assert ([ping], []) == ([type(message) for message in lively.heard], stuck.heard)
    (event,) = fixture.events.recent()
    assert ("process_stuck", role, 4711) == (event["event"], event["role"], event["pid"])


def test_pings_are_numbered() -> None:
    child = FakeChild("relay")
    fixture = LivenessFixture(child)
    fixture.turn(NOW)
    fixture.turn(NOW)
    assert [relay_messages.PingRelay(1), relay_messages.PingRelay(2)] == child.heard


def test_a_supervisor_that_stood_still_blames_nobody() -> None:
    """A suspended machine wakes up; its processes are given their time again."""
    child = FakeChild("router")
    fixture = LivenessFixture(child)
    fixture.liveness.turn(asked_at=NOW, now=NOW + 3600)
    assert (False, NOW + 3600) == (child.killed, child.answered_at)
    assert 1 == len(child.heard)


async def test_a_turn_that_fails_is_not_the_last_one() -> None:
    """There may be no descriptor left, for a moment: nobody would be watched any more."""
    turns: list[float] = []

    def every_turn(now: float) -> None:
        turns.append(now)
        raise OSError(24, "Too many open files")

    fixture = LivenessFixture(FakeChild("router"), every_turn=every_turn)
    running = spawn(fixture.liveness.run(), name="watch")
    await wait_until_async(lambda: len(turns) >= 2, 10, "a second turn")
    await cancel_and_wait(running)
    assert "internal_error" == fixture.events.recent()[0]["event"]


@pytest.mark.parametrize(
    ("ready", "stopping", "router", "answered", "expected"),
    [
        (True, False, True, NOW, True),
        (True, False, False, NOW, False),
        (True, False, True, NOW - HANG_S, False),
        (False, False, False, NOW, True),
        (True, True, False, NOW, True),
    ],
    ids=["lively", "no-router", "a-stuck-one", "still-starting", "stopping"],
)
def test_the_watchdog_is_answered_while_every_loop_turns(
    *, tmp_path: Path, ready: bool, stopping: bool, router: bool, answered: float, expected: bool
) -> None:
    """A service manager restarts what is frozen, not what is starting or stopping."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    sock.bind(str(tmp_path / "notify"))
    notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "30000000"})
    child = FakeChild("router" if router else "relay", answered)
    fixture = LivenessFixture(child, notifier=notifier)
    fixture.phase.ready, fixture.phase.stopping = ready, stopping
    fixture.turn(NOW)
    with sock:
        try:
            heard = sock.recv(100)
        except BlockingIOError:
            heard = b""
    assert (b"WATCHDOG=1" if expected else b"") == heard
