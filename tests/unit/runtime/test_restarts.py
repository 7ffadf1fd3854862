"""When the supervisor starts a process again."""

from collections.abc import Callable
from functools import partial

import pytest

from rdpbalancer.runtime.restarts import HEALTHY_S, RESTART_DELAYS_S, RestartBackoff, Restarts
from rdpbalancer.telemetry.events import Events


class Timer:
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


@pytest.fixture
def timer() -> Timer:
    """Return a timer at 1000 s."""
    return Timer()


@pytest.fixture
def events() -> Events:
    """Return what is reported."""
    return Events()


@pytest.fixture
def restarts(timer: Timer, events: Events) -> Restarts:
    """Return restarts that the timer times."""
    return Restarts(clock=timer.time, call_later=timer.call_later, events=events)


def nothing() -> None:
    """Start nothing."""


def test_the_first_restart_is_at_once_and_later_ones_take_their_time(
    restarts: Restarts, timer: Timer
) -> None:
    """A process that keeps dying does not fill the log; the pause has an upper bound."""
    started: list[int] = []
    for number in range(8):
        restarts.restart("relay", partial(started.append, number))
    assert [0.0, 0.1, 0.5, 1.0, 2.0, 5.0, 5.0, 5.0] == [delay_s for delay_s, _ in timer.later]
    for _, callback in timer.later:
        callback()
    assert list(range(8)) == started


def test_a_process_that_cannot_be_started_is_tried_again(
    restarts: Restarts, timer: Timer, events: Events
) -> None:
    """A machine without a process or descriptor to spare has one later."""

    def no_process() -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    restarts.restart("router", no_process)
    for _ in range(3):
        timer.later[-1][1]()
    assert [0.0, 0.1, 0.5, 1.0] == [delay_s for delay_s, _ in timer.later]
    told = [(event["event"], event["role"]) for event in events.recent()]
    assert [("process_not_started", "router")] * 3 == told


def test_a_process_that_lived_long_is_started_at_once() -> None:
    """What died a minute ago counts no more."""
    backoff = RestartBackoff()
    for _ in range(5):
        backoff.delay_s("relay", now=1000.0)
    assert RESTART_DELAYS_S[-1] == backoff.delay_s("relay", now=1000.0 + HEALTHY_S - 1)
    assert 0.0 == backoff.delay_s("relay", now=1000.0 + 2 * HEALTHY_S)


def test_routers_and_relays_do_not_wait_for_each_other() -> None:
    """A relay that keeps dying delays no router."""
    backoff = RestartBackoff()
    for _ in range(5):
        backoff.delay_s("relay", now=1000.0)
    assert 0.0 == backoff.delay_s("router", now=1000.0)
