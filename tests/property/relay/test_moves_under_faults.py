"""Sessions that move at an upgrade while routers and relays are killed: each lives on, once, and is known."""

import asyncio
import random
from typing import Final

import pytest

from tests.property.relay.farm_of_relays import Farm, UnpunctualLoop, farm_of_relays
from tests.support.running_balancer import open_descriptors
from tests.support.wait import wait_until_async
from tests.unit.runtime.conftest import unconfigured

__all__ = ["unconfigured"]  # a fixture: a router's log is the process's own

# What a run may draw its faults from, besides the upgrade that it begins with.
_KINDS: Final = [
    ("router",),
    ("target",),
    ("giver",),
    ("upgrade",),
    ("router", "upgrade"),
    ("router", "target"),
    ("target", "giver"),
    ("router", "target", "giver", "upgrade"),
]
# Seeds that between them have caught each mistake that was made on purpose; most others catch fewer.
_SEEDS: Final = range(12, 32)
# In the end: real time, for the loop's own costs none.
_SOON_S: Final = 5.0


@pytest.mark.timeout(30)
@pytest.mark.parametrize("seed", _SEEDS)
@pytest.mark.parametrize("kinds", _KINDS, ids="-".join)
def test_sessions_move_while_processes_are_killed(
    monkeypatch: pytest.MonkeyPatch, kinds: tuple[str, ...], seed: int
) -> None:
    """Nobody loses a session but by the death of its relay; whoever has ended has one record."""
    # Lines are read slowly: there are always words on the way when something dies.
    monkeypatch.setattr("rdpbalancer.ipc.channel._MESSAGES_PER_TURN", 2)
    chance = random.Random(f"{kinds} {seed}")
    loops = lambda: UnpunctualLoop(chance)  # noqa: E731
    with asyncio.Runner(loop_factory=loops) as runner:
        runner.run(_story(chance, kinds))


async def _story(chance: random.Random, kinds: tuple[str, ...]) -> None:
    before = open_descriptors()
    async with farm_of_relays(chance) as farm:
        await farm.upgrade()
        await farm.disturb(kinds)
        await _old_relays_go(farm)
        await _only_a_relay_s_death_ends_sessions(farm)
        await _counts_are_true(farm)
        await _books_are_true(farm)
        _nobody_is_at_two_relays(farm)
        _nobody_moves_for_nothing(farm)
        await _all_that_live_are_served(farm)
        farm.everybody_leaves()
        await _each_has_one_record(farm)
        await _counts_are_true(farm)
        assert [] == farm.complaints, "an error that nobody was told"
    assert before == open_descriptors(), "descriptors are left"


async def _old_relays_go(farm: Farm) -> None:
    """What was replaced exits, whatever became of it meanwhile."""
    await farm.router.start
    await wait_until_async(
        lambda: not farm.old_relays,
        _SOON_S,
        lambda: f"the exit of {[(relay.pid, relay.sessions()) for relay in farm.old_relays]}",
    )


async def _counts_are_true(farm: Farm) -> None:
    """The router knows how many sessions each relay has, and keeps nothing back."""
    pool = farm.router.pool
    await wait_until_async(lambda: pool.pending == 0, _SOON_S, lambda: f"{pool.pending} left in hand")
    await wait_until_async(
        lambda: {relay.pid: len(relay.sessions()) for relay in farm.relays} == pool.sessions(),
        _SOON_S,
        lambda: f"true counts, not {pool.sessions()}: sessions are at {farm.homes()}",
    )


async def _books_are_true(farm: Farm) -> None:
    """Each session that lives is known to the router, at the relay that has it; and no other one."""

    def differences() -> dict[str, tuple[object, object]]:
        homes, books = farm.homes(), farm.router.books()
        found = {session: (homes.get(session), books.get(session)) for session in homes | books}
        return {session: (at, entry) for session, (at, entry) in found.items() if at != [entry]}

    await wait_until_async(
        lambda: not differences(), _SOON_S, lambda: f"true books (session: relays, entry): {differences()}"
    )


def _nobody_is_at_two_relays(farm: Farm) -> None:
    """Two would read from the same socket."""
    assert {} == {session: relays for session, relays in farm.homes().items() if len(relays) > 1}


async def _only_a_relay_s_death_ends_sessions(farm: Farm) -> None:
    """Who has not left, and was not at a relay that was killed, is still there, or on the way."""
    safe = {session for session, user in farm.users.items() if not user.left} - farm.at_risk
    await wait_until_async(
        lambda: safe <= farm.homes().keys(), _SOON_S, lambda: f"{sorted(safe - farm.homes().keys())} at work"
    )


def _nobody_moves_for_nothing(farm: Farm) -> None:
    """An upgrade moves a session once, whoever is killed: one that has not gone has not moved."""
    moves = {state.id: state.moves for relay in farm.relays for state in relay.states()}
    assert {} == {session: times for session, times in moves.items() if times > farm.upgrades}, "moves"


async def _all_that_live_are_served(farm: Farm) -> None:
    """A session that is in a relay's books only is no session."""
    living = [farm.users[session] for session in farm.homes() if not farm.users[session].left]
    for user in living:
        user.say(b"still here")
    await wait_until_async(
        lambda: all(user.heard() == b"still here" for user in living),
        _SOON_S,
        lambda: f"words of {[user.session for user in living if user.heard() != b'still here']}",
    )


async def _each_has_one_record(farm: Farm) -> None:
    """One for each session, whoever has heard of its end; never two."""
    await wait_until_async(
        lambda: not farm.homes() and not farm.router.books(),
        _SOON_S,
        lambda: f"the end of {farm.homes()}, known as {farm.router.books()}",
    )
    records = farm.records()
    assert {} == {session: count for session, count in records.items() if count > 1}, "more than one record"
    assert set() == farm.users.keys() - records.keys() - farm.unknown_to_all(), "no record"
