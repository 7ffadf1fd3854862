"""Who inherits whose sessions, as the router arranges and counts it."""

import time

import pytest

from rdpbalancer.ipc import relay_messages
from rdpbalancer.ipc.relay_messages import MigrateIn, MigrateOut, SessionsEnded
from rdpbalancer.model import CloseReason
from tests.support.wait import wait_until_async
from tests.unit.relay.told import ended, party


async def test_heirs_get_even_shares_and_no_more_than_they_have_room_for() -> None:
    """What finds no room stays with its relay, at work, and moves when somebody leaves."""
    async with party(10, 3, 8, migrate_out=[1], capacity=10) as p:
        old, first, second = p.relays
        for target in (first, second):
            await target.told_to_receive()
        told = await old.is_told(MigrateOut, times=2)
        assert [relay_messages.RetireRelay()] == old.all_of(relay_messages.RetireRelay)
        assert [5, 2] == [message.sessions for message in told]
        second.line.send(SessionsEnded([ended("r3s0")]))
        await second.told_to_receive()
        told = await old.is_told(MigrateOut, times=3)
        assert 1 == told[-1].sessions
        assert {1: 10, 2: 3, 3: 7} == p.pool.sessions()


async def test_old_relays_are_not_each_other_s_heirs() -> None:
    """Else half of the sessions would move twice."""
    async with party(10, 10, 0, 0, migrate_out=[1, 2]) as p:
        for target in p.relays[2:]:
            await target.is_told(MigrateIn, times=2)
        assert [[], []] == [relay.all_of(MigrateIn) for relay in p.relays[:2]]


async def test_there_are_never_more_lines_than_descriptors_kept_for_them() -> None:
    """Twenty old relays and one target: sixteen moves at a time, and the others follow."""
    async with party(*[1] * 20, 0, migrate_out=range(1, 21)) as p:
        *old, target = p.relays
        moves = [await target.told_to_receive() for _ in range(16)]
        for relay in old[:16]:
            await relay.is_told(MigrateOut)
        assert 16 == len(target.all_of(MigrateIn))
        for number, move in enumerate(moves, 1):
            target.arrived(move, f"r{number}s0", last=True)
        await target.is_told(MigrateIn, times=20)
        for relay in old[16:]:
            await target.told_to_receive()
            await relay.is_told(MigrateOut)


async def test_a_slow_relay_surrenders_when_it_has_answered() -> None:
    """Whoever waited for its introduction has given up; it is not left behind."""
    async with party(4, 0, migrate_out=[1], silent=[1]) as p:
        old, target = p.relays
        old.answer(old.all_of(relay_messages.RelayHello)[0].router)
        await target.told_to_receive()
        assert [MigrateOut(4)] == await old.is_told(MigrateOut)


async def test_the_answer_to_an_earlier_router_is_not_ours() -> None:
    """Where sessions were then is nothing to go by; that one has ended is true whoever hears it."""
    async with party(2, silent=[1]) as p:
        (relay,) = p.relays
        relay.answer("an earlier router's word")
        relay.arrived("an earlier router's move", "x")
        relay.line.send(SessionsEnded([ended("r1s0")]))
        await wait_until_async(lambda: p.books.ended, 5, "an end")
        assert {} == p.books.live
        relay.states = relay.states[1:]
        relay.answer(relay.all_of(relay_messages.RelayHello)[0].router)
        await p.pool.introduced()
        assert ({"r1s1": 1}, {1: 1}) == (p.books.live, p.pool.sessions())


async def test_a_move_in_vain_is_not_repeated_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever made it fail may last: there is a pause, and then another try."""
    monkeypatch.setattr("rdpbalancer.relay.pool._MOVE_AGAIN_S", 0.2)
    async with party(4, 0, migrate_out=[1]) as p:
        _, target = p.relays
        move = await target.told_to_receive()
        began = time.monotonic()
        target.arrived(move, last=True)
        await target.told_to_receive()
        assert time.monotonic() - began >= 0.2


async def test_nobody_gives_before_the_heir_is_there() -> None:
    """What is said into a line whose other end lies in a dying router would be lost."""
    async with party(4, 0, migrate_out=[1]) as p:
        old, target = p.relays
        (message,) = await target.is_told(MigrateIn)
        await old.is_told(relay_messages.RetireRelay)
        assert [] == old.all_of(MigrateOut)
        target.arrived(message.move)
        await old.is_told(MigrateOut)
        (sending,), (receiving,) = old.sockets, target.sockets
        sending.send(b"hello")
        assert b"hello" == receiving.recv(10)


async def test_a_relay_is_lost_when_nothing_of_it_can_arrive_any_more() -> None:
    """The end of its line may be heard before what it gave away has been told by its target."""
    async with party(3, 0, migrate_out=[1]) as p:
        old, target = p.relays
        move = await target.told_to_receive()
        await old.is_told(MigrateOut)
        old.close()
        await wait_until_async(lambda: p.pool.sessions() == {2: 0}, 5, "the end of its line")
        assert ([], 1) == (p.books.lost, p.pool.pending)
        target.arrived(move, "r1s0", "r1s1")
        target.arrived(move, last=True)
        await wait_until_async(lambda: p.books.lost, 5, "the loss")
        assert {"r1s0": 2, "r1s1": 2, "r1s2": 1} == p.books.live
        assert ([1], {2: 2}, 0) == (p.books.lost, p.pool.sessions(), p.pool.pending)


async def test_an_heir_dies() -> None:
    """Another one gets the rest, and its own loss is told at once."""
    async with party(4, 0, migrate_out=[1]) as p:
        old, target = p.relays
        target.arrived(await target.told_to_receive(), "r1s0")
        await wait_until_async(lambda: p.books.live.get("r1s0") == 2, 5, "an arrival")
        target.close()
        await wait_until_async(lambda: p.books.lost == [2], 5, "the loss")
        await p.come(0).told_to_receive()
        assert [MigrateOut(4), MigrateOut(3)] == await old.is_told(MigrateOut, times=2)


async def test_the_last_router_s_moves_go_on() -> None:
    """A router that does not know a move takes what arrives by it, and takes nothing from anybody's count."""
    async with party(2, 0) as p:
        _, target = p.relays
        target.arrived("of-another-router", "x", "y")
        target.arrived("of-another-router", last=True)
        await wait_until_async(lambda: len(p.books.live) == 4, 5, "two arrivals")
        assert {1: 2, 2: 2} == p.pool.sessions()
        assert {"x": 2, "y": 2} == {name: p.books.live[name] for name in ("x", "y")}


async def test_a_session_that_is_kicked_on_its_way_ends_where_it_arrives() -> None:
    """The relay that had it has no more; the one that gets it is told."""
    async with party(2, 0, migrate_out=[1]) as p:
        _, target = p.relays
        move = await target.told_to_receive()
        p.pool.kick(1, ["r1s0"], CloseReason.KICKED)
        target.arrived(move, "r1s0", "r1s1")
        assert [relay_messages.Kick(["r1s0"], CloseReason.KICKED)] == await target.is_told(
            relay_messages.Kick
        )
