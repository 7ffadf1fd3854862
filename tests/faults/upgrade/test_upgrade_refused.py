"""New code that cannot take over: the command says why, and the old code goes on as if nothing had been."""

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from rdpbalancer import __version__
from rdpbalancer.ipc.relay_messages import PROTOCOL_VERSION
from rdpbalancer.runtime.upgrade import STATE_VERSION
from rdpbalancer.stores.schema import OLDEST_READER
from tests.faults.upgrade.installed import InstalledBalancer
from tests.faults.upgrade.upgrading import refused, upgraded
from tests.support.running_balancer import RunningBalancer, labs
from tests.support.wait import wait_until_async

pytestmark = [pytest.mark.faults, pytest.mark.slow]

_STATE, _NEXT_STATE = (f"STATE_VERSION = {STATE_VERSION + more}" for more in (0, 1))
_PROTOCOL, _NEXT_PROTOCOL = (f"PROTOCOL_VERSION = {PROTOCOL_VERSION + more}" for more in (0, 1))
_READERS = tuple(f"OLDEST_READER: Final = {OLDEST_READER - less}" for less in (0, 1))
# What is installed (module, old text, new text), and what the operator has to be told.
_BROKEN = {
    "syntax": ("core/route", "class Reject", "class class Reject", "does not start: SyntaxError"),
    "import": ("relay/worker", "import asyncio", "import asyncio\nimport no_such_module", "no_such_module"),
    "supervisor": (
        "runtime/supervisor",
        "import asyncio\n",
        "import asyncio\n\n1 / 0\n",
        "ZeroDivisionError",
    ),
    "state-file": ("stores/schema", *_READERS, "it cannot read the state: "),
    "state": ("runtime/upgrade", _STATE, _NEXT_STATE, "cannot take over state"),
    "relays": ("ipc/relay_messages", _PROTOCOL, _NEXT_PROTOCOL, "does not speak to relays"),
    "silence": ("runtime/child", "print(msgspec", "str(msgspec", "does not say what it can take over"),
}


@pytest.fixture
def installed(tmp_path: Path) -> Iterator[InstalledBalancer]:
    """A balancer that runs from a copy of the package; not started yet."""
    balancer = InstalledBalancer(tmp_path, relays=1)
    yield balancer
    balancer.dismiss()
    balancer.stop()
    assert [] == balancer.complaints()


@pytest.mark.parametrize("broken", sorted(_BROKEN))
async def test_new_code_that_does_not_start(installed: InstalledBalancer, broken: str) -> None:
    """Exit status 1 and a reason; the sessions are untouched, and the next good version is taken."""
    await asyncio.to_thread(installed.start)
    async with labs(1) as servers:
        vip = await installed.serve(servers)
        client = await vip.opened("alice")
        await client.login("alice")
        module, old, new, told = _BROKEN[broken]
        installed.install(module, old, new)
        done = await refused(installed)
        assert told in done.stderr
        assert "the running code goes on" in done.stderr
        assert 1 == len(installed.events("upgrade_refused"))
        await client.echo_check(random.Random(1), 10_000)
        await (await vip.opened("bob")).login("bob")
        installed.install(module, new, old)
        await upgraded(installed)
        await client.echo_check(random.Random(2), 10_000)


async def test_a_configuration_that_new_code_refuses(installed: InstalledBalancer) -> None:
    """A key that the new version knows no more: nothing changes, and the key is named."""
    installed.set_global(resolve_interval="20s")
    installed.write_configuration()
    await asyncio.to_thread(installed.start)
    installed.install("settings/schema", "resolve_interval", "resolve_every")
    done = await refused(installed)
    assert "resolve_interval" in done.stderr


async def test_a_mistake_in_the_file_that_is_not_in_use_yet(installed: InstalledBalancer) -> None:
    """The new version takes what runs, not what is being written; a reload then names the mistake."""
    await asyncio.to_thread(installed.start)
    async with labs(1) as servers:
        vip = await installed.serve(servers)
        client = await vip.opened("alice")
        await client.login("alice")
        good = installed.configuration.read_text()
        installed.configuration.write_text("virtual_services: [\n")
        await upgraded(installed)
        await client.echo_check(random.Random(1), 10_000)
        await (await vip.opened("bob")).login("bob")
        done = await installed.command("reload")
        assert (78, True) == (done.returncode, "not YAML" in done.stderr)
        installed.configuration.write_text(good)
        assert 0 == (await installed.command("reload")).returncode


async def test_the_new_version_is_what_runs(installed: InstalledBalancer) -> None:
    """Afterwards `status` shows the version installed, for all processes run its code."""
    await asyncio.to_thread(installed.start)
    async with labs(1) as servers:
        vip = await installed.serve(servers)
        client = await vip.opened("alice")
        await client.login("alice")
        assert __version__ == (await installed.status())["version"]
        installed.install("__init__", f'"{__version__}"', '"99.0"')
        after = await upgraded(installed)
        assert ("99.0", 1, 1) == (after["version"], after["generation"], after["sessions"])
        assert {"to version 99.0"} == {event["detail"] for event in installed.events("upgraded")}
        await client.echo_check(random.Random(1), 10_000)


async def test_without_relays_there_is_no_upgrade(tmp_path: Path) -> None:
    """`relays: 0`: the process that would make way holds the sessions, so it says what to do instead."""
    balancer = RunningBalancer(tmp_path, relays=0)
    await asyncio.to_thread(balancer.start)
    try:
        async with labs(1) as servers:
            vip = await balancer.serve(servers)
            client = await vip.opened("alice")
            await client.login("alice")
            done = await refused(balancer)
            assert "restart the service instead" in done.stderr
            await client.echo_check(random.Random(1), 10_000)
            await client.leave()
            await wait_until_async(lambda: len(vip.records()) == 1, 5, "its record")
    finally:
        balancer.dismiss()
        balancer.stop()
