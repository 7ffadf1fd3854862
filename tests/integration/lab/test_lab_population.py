"""Simulated users come, work, leave and come back; what happened to each is told."""

import asyncio
import random

import pytest

from rdpbalancer.lab.channel import LabError
from rdpbalancer.lab.desktops import Broker
from rdpbalancer.lab.population import Population, Visit, storm, user_names
from rdpbalancer.lab.server import LabServer
from rdpbalancer.tasks import spawn
from tests.support.wait import wait_until_async


async def test_a_storm_is_simultaneous_and_tells_where_each_landed() -> None:
    """All connections are open at once until they are let go; the order is chance's, and repeatable."""
    users, hold = user_names(40), asyncio.Event()
    landed: list[Visit] = []
    async with LabServer() as server:
        running = spawn(
            storm(server.endpoint, users, 3, random.Random(1), hold, concurrency=16, landed=landed.append),
            name="storm",
        )
        await wait_until_async(lambda: len(landed) == 120, 10, "all to land")
        assert (120, 40, {3}) == (
            len(server.sessions),
            len(server.desktops),
            {desktop.connections for desktop in server.desktops},
        )
        hold.set()
        visits: list[Visit] = await running
        assert sorted(users * 3) == sorted(visit.user for visit in visits)
        order = users * 3
        assert order != [visit.user for visit in visits]
        assert dict.fromkeys(users, 2) == {
            user: sum(visit.landing.returned for visit in visits if visit.user == user and visit.landing)
            for user in users
        }
        again = await storm(server.endpoint, users, 3, random.Random(1))
        assert [visit.user for visit in visits] == [visit.user for visit in again]
        await wait_until_async(lambda: not server.connections, 5, "the end of the storm")


async def test_a_storm_records_what_failed() -> None:
    """A server that is down is a result, not an exception."""
    async with LabServer() as server:
        server.faults.inject("refuse")
        visits = await storm(server.endpoint, ["alice", "bob"], 1, random.Random(1))
    assert {("alice", None, "refused"), ("bob", None, "refused")} == {
        (visit.user, visit.landing, visit.error) for visit in visits
    }


async def test_a_cancelled_storm_leaves_nothing() -> None:
    """All its connections are closed."""
    async with LabServer() as server:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(
                storm(server.endpoint, user_names(20), 1, random.Random(1), asyncio.Event()), 0.5
            )
        await wait_until_async(lambda: not server.connections, 5, "the end of the storm")
        assert 20 == server.counters.accepted


async def test_users_find_their_desktop_again() -> None:
    """Every user has a visit per turn, all on one desktop, from an address of one's own."""
    users = user_names(10)
    addresses = {user: f"127.0.1.{number}" for number, user in enumerate(users, 1)}
    async with LabServer() as server:
        crowd = Population(server.endpoint, users, random.Random(2), source_of=addresses.__getitem__)
        await crowd.live(visits_each=3, work_bytes=5_000, pause_s=0.01)
        report = crowd.report()
        assert users == list(report)
        assert [(False, 1), (True, 2), (True, 3)] * 10 == [
            (visit.landing.returned, visit.landing.visit)
            for user in users
            for visit in report[user]
            if visit.landing is not None
        ]
        assert ({}, []) == (crowd.strayed(), crowd.present)
        clients = {(kept.request.cookie, kept.client.host) for kept in server.requests}
        assert set(addresses.items()) == clients


async def test_a_population_reports_a_user_on_another_server() -> None:
    """A user who gets to another server is told: no broker, no balancer between."""
    async with LabServer(name="ts1") as first, LabServer(name="ts2") as second:
        crowd = Population(first.endpoint, ["alice"], random.Random(1))
        await crowd.come("alice")
        with pytest.raises(LabError, match="already"):
            await crowd.come("alice")
        await crowd.leave("alice")
        crowd.endpoint = second.endpoint
        await crowd.come("alice")
        await crowd.everybody_leaves()
        assert {"alice": {"ts1-1", "ts2-1"}} == crowd.strayed()
        assert [] == crowd.present


async def test_a_population_tells_failures_from_broken_sessions() -> None:
    """A login that fails is recorded; a session that breaks is an error."""
    broker = Broker()
    async with LabServer(broker=broker) as server:
        crowd = Population(server.endpoint, ["alice"], random.Random(1))
        server.faults.inject("accept-then-close")
        await crowd.live(visits_each=1, work_bytes=100)
        assert [Visit("alice", error="closed")] == crowd.visits
        server.faults.inject("reset-after", after_bytes=5_000)
        with pytest.raises(LabError) as caught:
            await crowd.live(visits_each=1, work_bytes=100_000)
        assert ("reset", []) == (caught.value.code, crowd.present)


async def test_users_stay_as_long_as_they_are_told() -> None:
    """All of them at once, after their work; a session that is ended meanwhile is noted, and no failure."""
    async with LabServer() as server:
        population = Population(server.endpoint, user_names(3), random.Random(1))
        life = spawn(population.live(visits_each=1, work_bytes=100, hold_s=60, concurrency=3), name="life")
        await wait_until_async(lambda: len(population.visits) == 3, 10, "all to be there")
        assert 3 == len(population.present)
        await server.stop()  # ends the sessions
        await life
    assert (3, []) == (len(population.ended), population.present)


async def test_a_user_leaves_after_the_stay() -> None:
    """Then the user leaves by themself."""
    async with LabServer() as server:
        population = Population(server.endpoint, ["alice"], random.Random(1))
        await population.live(visits_each=1, work_bytes=0, hold_s=0.05)
    assert ([], []) == (population.ended, population.present)
