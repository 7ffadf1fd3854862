"""The command line on real terminals, beside a running balancer of two hundred servers."""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from rdpbalancer.cli.escape import escaped
from rdpbalancer.lab.opening import LabOpening
from rdpbalancer.lab.population import Visit, storm, user_names
from rdpbalancer.lab.server import LabServer
from rdpbalancer.tasks import cancel_and_wait, spawn
from tests.support import terminal
from tests.support.balancer import Balancer
from tests.support.processes import free_ports
from tests.support.terminal import Done
from tests.support.wait import wait_until_async

SERVERS = 200
STRANGE = ["用户用户用户", "x" * 90, "EXAMPLE\\müller", "a\x9b2Jb\u202ec\u2028d\u2066e"]
USERS = [*user_names(396), *STRANGE]


class Farm:
    """A balancer, its servers in this process, and the users who stay."""

    def __init__(self, balancer: Balancer) -> None:
        self.balancer = balancer

    async def see(self, *args: str, **how: Any) -> Done:
        """Run a command on a terminal, without colours."""
        how.setdefault("environ", {"NO_COLOR": "1"})
        return await asyncio.to_thread(terminal.run, *args, socket=self.balancer.socket, **how)

    async def rows(self, *args: str) -> Any:
        """Run a command in a pipe; return its JSON."""
        return await asyncio.to_thread(self.balancer.cli, *args, "--json")


@pytest.fixture
async def farm(tmp_path: Path) -> AsyncIterator[Farm]:
    """Four hundred users on two hundred servers; one server is down, one has an IPv6 address."""
    async with AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(LabServer(name=f"ts-{n:03}")) for n in range(SERVERS)]
        real = [
            {"name": f"terminal-server-{n:03}", "address": str(server.endpoint)}
            for n, server in enumerate(servers)
        ]
        real.append({"name": "ts-dead", "address": "[::1]:1"})
        services: list[dict[str, Any]] = [
            {"name": "ts-cluster", "real_servers": real, "health_check": {"interval": "60s"}},
            {"name": "gw", "real_servers": [{"name": "gw1", "address": "127.0.0.1:1"}]},
        ]
        balancer = Balancer(tmp_path, services, level="warning")
        await asyncio.to_thread(balancer.start)
        staying = None
        try:
            await asyncio.to_thread(balancer.wait_usable, SERVERS, 40)
            visits: list[Visit] = []
            people = storm(
                balancer.endpoint("ts-cluster"), USERS, 1, random.Random(1), asyncio.Event(),
                opening=lambda user: LabOpening(cookie=user), landed=visits.append,
            )  # fmt: skip
            staying = spawn(people, name="people")
            await wait_until_async(lambda: len(visits) == len(USERS), 30, "everybody to be there")
            assert [] == [visit.error for visit in visits if visit.error]
            yield Farm(balancer)
        finally:
            if staying is not None:
                await cancel_and_wait(staying)
            await asyncio.to_thread(balancer.stop)


@pytest.mark.slow
async def test_nothing_is_cut_on_a_terminal_of_80_columns(farm: Farm) -> None:
    """Every name, key and address of 200 servers and 400 sessions stands in one piece, in 132 too."""
    kept = {
        "servers": ("name", "address"),
        "sessions": ("id", "client", "server"),
        "persistence": ("server",),
        "services": ("name",),
    }
    for what, keys in kept.items():
        rows = await farm.rows("show", what)
        for columns in (80, 132):
            done = await farm.see("show", what, columns=columns)
            assert (0, "") == (done.status, done.err)
            words = set(done.out.replace(",", " ").split())
            assert [] == [row[key] for row in rows for key in keys if row[key] not in words]
            for user in ("用户用户用户", "x" * 90):
                assert what not in ("sessions", "persistence") or user in words


@pytest.mark.slow
async def test_a_screen_tells_what_is_wrong(farm: Farm) -> None:
    """`status` of 200 servers in 24 lines: the outage, the server that is down, the rest in a sentence."""
    done = await farm.see("status")
    lines = done.out.splitlines()
    assert (0, "") == (done.status, done.err)
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    assert "  200 of 201 servers usable, 400 sessions" in lines
    assert "  200 servers up, 2 sessions each" in lines
    assert "  0 of 1 server usable, 0 sessions" in lines
    assert any(line.startswith("  ts-dead ") for line in lines)
    coloured = await farm.see("status", environ={})
    assert "\x1b[1;31m0 of 1 server usable" in coloured.out


@pytest.mark.slow
async def test_a_strangers_name_steers_no_terminal(farm: Farm) -> None:
    """Neither in a table nor in JSON on a terminal; JSON in a pipe is exact, and both are the same value."""
    hostile = STRANGE[-1]
    table = await farm.see("show", "sessions", columns=200)
    assert "a\\x9b2Jb\\u202ec\\u2028d\\u2066e" in table.out
    on_terminal = await farm.see("show", "sessions", "--json")
    exact = await farm.rows("show", "sessions")
    assert hostile in [row["user"] for row in exact]
    assert [row["user"] for row in exact] == [row["user"] for row in json.loads(on_terminal.out)]
    for done in (table, on_terminal):
        assert done.out.replace("\n", "").isprintable()


@pytest.mark.slow
async def test_servers_are_emptied_and_users_told(farm: Farm) -> None:
    """A pattern drains ten servers; the wait tells who is left; `kick` asks before it ends many."""
    drained = await farm.see(
        "drain", "terminal-server-00*", "--deadline", "300ms", "--reason", "patch night", errors=True
    )
    assert 75 == drained.status
    assert "20 sessions left" in drained.out
    assert "ts-cluster/terminal-server-007 and 2 more: drain (20 sessions)" in drained.out
    assert "the wait ran out; 20 sessions left: " in drained.out
    server = await farm.see("show", "server", "terminal-server-003")
    assert "operator: drain: patch night" in server.out
    no = await farm.see("kick", "--service", "ts-cluster", typed="n\n")
    assert (1, True) == (no.status, "End 400 sessions?" in no.err)
    yes = await farm.see("kick", "--service", "ts-cluster", typed="y\n", errors=True)
    assert (0, True) == (yes.status, "400 sessions ended" in yes.out)
    empty = await farm.see("drain", "terminal-server-*", "--wait", "--deadline", "20s", errors=True)
    assert (0, True) == (empty.status, "drain (0 sessions)" in empty.out), empty.out
    events = await farm.see("show", "events", "--level", "info")
    assert "kicked 400 sessions" in events.out


@pytest.mark.slow
async def test_the_queue_the_events_and_addresses_of_ipv6(tmp_path: Path) -> None:
    """Users with long, wide and hostile names who come by IPv6 and wait: all of it is whole."""
    users = [*STRANGE, "c" * 60 + "\\" + "d" * 25]
    (port,) = free_ports(1)
    name = "terminal-server-with-a-name-as-long-as-those-of-some-clouds-001"
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(LabServer(host="::1", name="ts"))
        service = {
            "name": "virtual-service-of-the-frankfurt-office",
            "listen": f"[::1]:{port}",
            "real_servers": [{"name": name, "address": str(server.endpoint), "max_connections": 1}],
            "timeouts": {"queue": "60s"},
        }
        balancer = Balancer(tmp_path, [service], level="warning")
        await asyncio.to_thread(balancer.start)
        farm = Farm(balancer)
        crowds = []
        try:
            await asyncio.to_thread(balancer.wait_usable, 1)
            endpoint = balancer.endpoint(str(service["name"]))
            for count, (user, cookie) in enumerate([("nobody", ""), *zip(users, users, strict=True)]):
                crowd = storm(
                    endpoint, [user], 1, random.Random(1), asyncio.Event(),
                    opening=_opening(cookie or None), timeout_s=60,
                )  # fmt: skip
                crowds.append(spawn(crowd, name=user))
                await _until_there(farm, sessions=1, queue=count)
            await asyncio.to_thread(balancer.cli, "weight", name, "50", "--reason", "用户 " * 30)
            queue = await farm.rows("show", "queue")
            bindings = await farm.rows("show", "persistence")
            sessions = await farm.rows("show", "sessions")
            assert (users, ["source-ip"]) == (
                [row["user"] for row in queue],
                [row["method"] for row in bindings],
            )
            wanted = {
                "queue": [*(row["client"] for row in queue), *map(escaped, users)],
                "persistence": [*(row["key"] for row in bindings), name],
                "sessions": [sessions[0]["id"], sessions[0]["client"], name],
                "servers": [name, str(server.endpoint), "用户"],
                "events": [f"{service['name']}/{name}", "用户"],
                "services": [service["name"], service["listen"]],
            }
            for what, words in wanted.items():
                done = await farm.see("show", what)
                assert (0, "") == (done.status, done.err)
                assert [] == [word for word in words if word not in done.out.split()], done.out
                assert done.out.replace("\n", "").isprintable()
        finally:
            await cancel_and_wait(*crowds)
            await asyncio.to_thread(balancer.stop)


def _opening(cookie: str | None) -> Callable[[str], LabOpening]:
    """Open with this cookie, whatever the user is called."""
    return lambda _user: LabOpening(cookie=cookie)


async def _until_there(farm: Farm, *, sessions: int, queue: int) -> None:
    """Wait until so many are served and so many wait."""
    async with asyncio.timeout(20):
        while True:
            (service,) = await farm.rows("show", "services")
            if (sessions, queue) == (service["sessions"], service["queue"]):
                return
