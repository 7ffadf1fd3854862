"""A router killed in the middle of a reload: the old farm or the new one, whole, with the listeners of it."""

import asyncio
import random
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from rdpbalancer.control.client import UnreachableError
from tests.faults.upgrade.installed import InstalledBalancer
from tests.support.processes import free_ports, is_listening
from tests.support.running_balancer import Vip, labs, real_server
from tests.support.wait import wait_until_async

pytestmark = [pytest.mark.faults, pytest.mark.slow]

_KILL = f"os.kill(os.getpid(), {int(signal.SIGKILL)}); "
# The statement before which the router dies, and whether the new configuration is kept by then.
_STEPS = {
    "read": ("self._target.refuse(fresh)", False),
    "compared": ("await self._prepare_and_commit(fresh)", False),
    "prepared": ("running_config.keep(fresh)", False),
    "kept": ("target.take_settings(fresh, users)", True),
    "settings-taken": ("target.stop_removed(fresh)", True),
    "stopped": ("await target.take_farm(farm)", True),
    "farm-taken": ("target.restore_overrides(changes.servers_added)", True),
    "restored": ("await target.accept(fresh)", True),
    "applied": ("await self._finish_at_supervisor()", True),
    "settled": ("return _described(changes, details(", True),
}


@pytest.fixture
def installed(tmp_path: Path) -> Iterator[InstalledBalancer]:
    """A balancer that runs from a copy of the package; not started yet."""
    balancer = InstalledBalancer(tmp_path, relays=1)
    yield balancer
    balancer.dismiss()
    balancer.stop()
    assert [] == balancer.complaints()


@pytest.mark.parametrize("step", _STEPS)
async def test_a_router_killed_during_a_reload_leaves_the_old_or_the_new_configuration(
    installed: InstalledBalancer, step: str
) -> None:
    """The service's listener and its server are both the old ones or both the new ones; sessions go on."""
    statement, kept = _STEPS[step]
    installed.install("runtime/reload", statement, _KILL + statement)
    async with labs(2) as servers:
        installed.services.append(installed.describe(servers[:1]))
        installed.write_configuration()
        await asyncio.to_thread(installed.start)
        vip = Vip(installed, installed.services[-1]["name"])
        await vip.wait_server("ts1", health="up")
        old = vip.endpoint
        alice = await vip.opened("alice")
        await alice.login("alice")
        (port,) = free_ports(1)
        vip.description["listen"] = f"127.0.0.1:{port}"
        vip.description["real_servers"] = [real_server(servers[1])]
        installed.write_configuration()
        first = await installed.router_pid()
        with pytest.raises(UnreachableError):
            await installed.ask("reload")

        async def restarted() -> bool:
            try:
                return (await installed.router_pid()) != first
            except UnreachableError:
                return False

        await wait_until_async(restarted, 15, "the next router")
        await installed.answers_again()
        assert ["ts2" if kept else "ts1"] == list(await vip.servers())
        expected = {port} if kept else {old.port}
        assert expected == {number for number in (old.port, port) if is_listening(number)}
        assert [] == (await installed.status())["listeners_missing"]
        await vip.wait_server("ts2" if kept else "ts1", health="up")
        if not kept:
            vip.description["listen"] = str(old)
        bob = await vip.opened("bob")
        assert ("ts2" if kept else "ts1") == (await bob.login("bob")).server
        await alice.echo_check(random.Random(1), 10_000)
