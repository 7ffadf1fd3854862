"""The queue: whose turn it is."""

import time

import pytest

from rdpbalancer.core.ledger import ServerSlot
from rdpbalancer.core.queue import AdmissionQueue, Waiter
from tests.unit.core.farms import sid

TS1, TS2, TS3 = sid("ts1"), sid("ts2"), sid("ts3")


def nothing(_: ServerSlot | None) -> None:
    """Be granted, and do nothing about it."""


def line_of(*servers: str | None) -> tuple[AdmissionQueue, list[Waiter]]:
    """Return a line where these wait, each for its server or for any."""
    line = AdmissionQueue()
    return line, [line.join(sid(server) if server else None, nothing) for server in servers]


def test_an_empty_line_has_nobody() -> None:
    line = AdmissionQueue()
    assert 0 == len(line)
    assert line.next_for(TS1, takes_new=True) is None
    assert [] == line.drain()


def test_first_come_first_served() -> None:
    line, waiters = line_of(None, None, None)
    assert waiters == [line.next_for(TS1, takes_new=True) for _ in waiters]
    assert 0 == len(line)


@pytest.mark.parametrize(
    ("server", "takes_new", "expected"),
    [
        ("ts1", True, [1, 2, 4]),
        ("ts2", True, [0, 1, 3, 4]),
        ("ts3", True, [1, 4]),
        ("ts1", False, [2]),
        ("ts2", False, [0, 3]),
        ("ts3", False, []),
    ],
)
def test_a_place_goes_to_the_first_whom_it_suits(
    *, server: str, takes_new: bool, expected: list[int]
) -> None:
    """Whoever waits for one server waits for it alone; a draining server suits only who waits for it."""
    line, waiters = line_of("ts2", None, "ts1", "ts2", None)
    served: list[int] = []
    while (waiter := line.next_for(sid(server), takes_new=takes_new)) is not None:
        assert len(waiters) - len(served) == len(line) + 1
        served.append(waiters.index(waiter))
    assert expected == served


def test_the_line_knows_who_waits_for_one_server() -> None:
    """Those who take any place are not counted, and nobody leaves the line for being counted."""
    line, _ = line_of("ts1", None, "ts1", "ts2")
    assert (2, 1, 0) == (line.waiting_for(TS1), line.waiting_for(TS2), line.waiting_for(TS3))
    assert 4 == len(line)


def test_leaving_twice_does_nothing() -> None:
    line, (first, second) = line_of(None, None)
    line.leave(first)
    line.leave(first)
    assert 1 == len(line)
    assert second is line.next_for(TS1, takes_new=True)
    line.leave(second)
    assert 0 == len(line)


def test_a_drained_line_is_told_in_order() -> None:
    line, waiters = line_of("ts2", None, "ts1")
    assert waiters == line.drain()
    assert 0 == len(line)


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0], [1, 0, 2], [2, 0, 1]])
def test_a_ticket_keeps_its_place(order: list[int]) -> None:
    """Whatever the order in which the drained come back, and whoever came in the meantime."""
    line, waiters = line_of(None, None, None)
    tickets = [waiter.ticket for waiter in line.drain()]
    newcomer = line.join(None, nothing)
    back = {which: line.join(None, nothing, ticket=tickets[which]) for which in order}
    expected = [back[0], back[1], back[2], newcomer]
    assert expected == [line.next_for(TS1, takes_new=True) for _ in range(4)]
    assert newcomer.ticket not in tickets
    assert waiters != expected[:3]


def test_who_came_back_is_not_sent_away_by_its_former_self() -> None:
    """A late clean-up of the first wait must not end the second one, which has the same ticket."""
    line, (former,) = line_of(None)
    line.drain()
    back = line.join(TS2, nothing, ticket=former.ticket)
    line.leave(former)
    assert back is line.next_for(TS2, takes_new=False)


def test_a_long_line_comes_back_quickly() -> None:
    """Four thousand waiters, as many as may be half open, look again in milliseconds: work is linear."""
    line, _ = line_of(*[None] * 4096)
    drained = line.drain()
    began = time.process_time()
    for waiter in drained:
        line.join(None, nothing, ticket=waiter.ticket)
    assert 0.2 > time.process_time() - began
    assert drained[0].ticket == line.drain()[0].ticket


def test_a_backups_place_suits_whom_all_before_it_have_failed() -> None:
    """Who waits for any server, and has not tried them all, waits for one of those."""
    line = AdmissionQueue()
    line.join(None, nothing, excluded={TS1})
    second = line.join(None, nothing, excluded={TS1, TS2})
    assert second is line.next_for(TS3, takes_new=True, preferred=[TS1, TS2])
    assert line.next_for(TS3, takes_new=True, preferred=[TS1, TS2]) is None
