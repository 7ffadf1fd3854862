"""Lines that strangers can cause without end."""

import io

from rdpbalancer.errors import ClientError, ServerError
from rdpbalancer.model import ServerId
from rdpbalancer.telemetry.account import Account
from rdpbalancer.telemetry.metrics import Metrics
from rdpbalancer.telemetry.sums import MAX_SOURCES, WINDOW_S, Sum, Sums
from rdpbalancer.telemetry.users import UserMasking
from tests.unit.telemetry.samples import lines

ABOUT = ("farm", "denied")


class Clock:
    """A clock in the test's hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


def test_the_first_are_told_and_the_rest_is_a_sum() -> None:
    """And so in every window anew."""
    clock = Clock()
    sums = Sums(at_once=2, clock=clock)
    for _ in range(2):
        told = [sums.tells(ABOUT, source) for source in ("a", "b", "c", "b", "b")]
        assert [True, True, False, False, False] == told
        assert [] == sums.due()
        clock.now += WINDOW_S
        assert [Sum(ABOUT, count=3, sources=2, most_from="b")] == sums.due()
        assert [] == sums.due()


def test_what_was_all_told_has_no_sum() -> None:
    """An event a window is no flood."""
    clock = Clock()
    sums = Sums(at_once=1, clock=clock)
    assert sums.tells(ABOUT, "a")
    clock.now += WINDOW_S
    assert [] == sums.due()


def test_different_things_are_counted_apart_and_told_at_the_end() -> None:
    """The service is stopped in the middle of a window."""
    sums = Sums(at_once=0, clock=Clock())
    sums.tells(("farm", "denied"), "a")
    sums.tells(("farm", "source-rate"), "a")
    assert {("farm", "denied"), ("farm", "source-rate")} == {each.about for each in sums.due(at_all=True)}


def test_sources_that_are_made_up_cost_nothing_more() -> None:
    """All are counted, so many are told apart; the one that comes most is known if it came early."""
    sums = Sums(at_once=0, clock=Clock())
    for _ in range(5):
        sums.tells(ABOUT, "192.0.2.1")
    for number in range(3 * MAX_SOURCES):
        sums.tells(ABOUT, f"2001:db8::{number:x}")
    (told,) = sums.due(at_all=True)
    assert (3 * MAX_SOURCES + 5, MAX_SOURCES, "192.0.2.1") == (told.count, told.sources, told.most_from)


def test_a_flood_costs_a_line_in_ten_seconds(log: io.StringIO) -> None:
    """Rejections, handshakes and dials that fail: no more than 20 lines and a sum of each kind."""
    clock = Clock()
    account = Account(Metrics(), UserMasking("plain", b"key"), clock=clock)
    for number in range(1000):
        client = f"192.0.2.{number % 250}"
        account.rejected("farm", "denied", source=client)
        account.failed("farm", ClientError("left", "it left"), client=f"{client}:1", user="x")
        failed = ServerError("refused", "connection refused")
        account.server_failed(ServerId("farm", "ts1"), failed, source=client, user="x")
    clock.now += WINDOW_S
    account.tell_sums()
    told = lines(log)
    names = [line["event"] for line in told]
    counts = {name: names.count(name) for name in sorted(set(names))}
    assert {
        "connection_failed": 20,
        "connections_failed": 1,
        "connections_rejected": 1,
        "server_failed": 20,
        "server_failures": 1,
    } == counts
    sums = {line["event"]: line for line in told if "count" in line}
    assert (1000, 250, "denied") == tuple(
        sums["connections_rejected"][name] for name in ("count", "sources", "reason")
    )
    assert (980, "left") == tuple(sums["connections_failed"][name] for name in ("count", "reason"))
    assert (980, "ts1") == tuple(sums["server_failures"][name] for name in ("count", "server"))


def test_strangers_without_a_name_stay_at_debug(log: io.StringIO) -> None:
    """They are not summed up either: scanners fail all day long."""
    account = Account(Metrics(), UserMasking("plain", b"key"))
    for _ in range(100):
        account.failed("farm", ClientError("left", "it left"), client="192.0.2.1:1", user=None)
    account.tell_sums(at_all=True)
    assert {"debug"} == {line["level"] for line in lines(log)}
