"""New code that fails only when it runs for real: the version before comes back by itself, with everybody."""

import asyncio
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rdpbalancer import __version__
from rdpbalancer.control.client import UnreachableError
from tests.faults.upgrade.crowd import Crowd
from tests.faults.upgrade.installed import InstalledBalancer
from tests.faults.upgrade.upgrading import one_record_each, upgraded
from tests.support.running_balancer import labs
from tests.support.wait import wait_until_async

pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.timeout(180)]

_REVERTED_S = 30
_NEW = "99.0"
# A defect that a trial start cannot show.
_FOR_REAL = 'if ".rehearsal-" not in str('
_ROUTER = ("runtime/child", "    router = Router(", f"    {_FOR_REAL}kept): ")
_READY = ("runtime/router", "        self._send(router_messages.RouterReady(", "")


def _router_that(statement: str) -> tuple[str, str, str]:
    module, old, condition = _ROUTER
    return module, old, f"{condition}{statement}\n{old}"


def _once_ready(statement: str) -> tuple[str, str, str]:
    module, old, _ = _READY
    condition = f"        {_FOR_REAL}parts.config.settings.global_.state_dir): "
    return module, old, f"{condition}{statement}\n{old}"


# What is installed, and what the operator is told of it.
_BROKEN = {
    "raises": (_router_that("raise RuntimeError('out of luck')"), "RuntimeError: out of luck"),
    "exits": (_router_that("os._exit(3)"), "exit status 3"),
    "is-killed": (_router_that("os.kill(os.getpid(), signal.SIGKILL)"), "killed by SIGKILL"),
    "hangs": (_router_that("__import__('time').sleep(3600)"), "was not ready within 20 s"),
    "never-ready": (_once_ready("await asyncio.sleep(3600)"), "was not ready within 20 s"),
    "ready-then-dies": (
        _once_ready("asyncio.get_running_loop().call_later(1.0, __import__('os')._exit, 7)"),
        "its router ended: exit status 7",
    ),
    "supervisor": (
        (
            "runtime/supervisor",
            "            self._upgrader.take_over(self._inherited)\n",
            "            raise RuntimeError('cannot take over')\n",
        ),
        "its supervisor did not start: RuntimeError: cannot take over",
    ),
    "configuration": (
        (
            "runtime/service",
            "        running = running_config.kept(Path(inherited.kept), path, environ=os.environ)\n",
            "        raise RuntimeError('cannot read what is kept')\n",
        ),
        "its supervisor did not start: RuntimeError: cannot read what is kept",
    ),
    "relay": (
        (
            "runtime/child",
            '            setproctitle.setproctitle(f"rdpbalancer: relay {index}")\n',
            '            assert index == "1", "a relay that only starts as the first"\n',
        ),
        "its relay ended: exit status 1: AssertionError",
    ),
}


@pytest.fixture
def installed(tmp_path: Path) -> Iterator[InstalledBalancer]:
    """A balancer that runs from a copy of the package; not started yet."""
    balancer = InstalledBalancer(tmp_path, relays=1)
    yield balancer
    balancer.dismiss()
    balancer.stop()
    ours = ("out of luck", "only starts as the first")
    assert [] == [line for line in balancer.complaints() if not any(word in line for word in ours)]


@pytest.mark.parametrize("broken", _BROKEN)
async def test_a_version_that_does_not_work_is_left_again(installed: InstalledBalancer, broken: str) -> None:
    """Within 30 s the old version decides again, with 100 sessions of 100, and the command says why."""
    await asyncio.to_thread(installed.start)
    async with labs(2) as servers:
        # The servers are this very process, which has a hundred users to play beside them.
        vip = await installed.serve(servers, health_check={"timeout": "10s"})
        crowd = Crowd(vip, 100, rest_s=0.5)
        await crowd.come()
        change, told = _BROKEN[broken]
        installed.install("__init__", f'"{__version__}"', f'"{_NEW}"')
        installed.install(*change)
        done = asyncio.get_running_loop().create_task(installed.command("upgrade", "--wait"))
        await wait_until_async(lambda: installed.events("upgrading"), 30, "the upgrade to begin")
        began_at = time.monotonic()
        newcomers = [vip.client(f"new{number}", timeout_s=60) for number in range(5)]
        coming = asyncio.gather(*(client.open() for client in newcomers))
        await wait_until_async(lambda: _decides_again(installed), _REVERTED_S, "the old version")
        took_s = time.monotonic() - began_at
        command = await done
        if broken == "ready-then-dies":  # it may have had all sessions before its first death
            assert command.returncode in {0, 1}
        else:
            assert 1 == command.returncode, installed.tail()
            assert told in command.stderr
            assert f"version {_NEW} was left again" in command.stderr
        await coming
        (event,) = installed.events("upgrade_reverted")
        assert _NEW == event["version"]
        status = await installed.status()
        assert (__version__, 105) == (status["version"], status["sessions"])
        assert told in status["upgrade_reverted"]["detail"]
        assert took_s < _REVERTED_S
        rounds = crowd.rounds.copy()
        await wait_until_async(lambda: crowd.all_worked_since(rounds), 15, "everybody's work going on")
        assert [] == crowd.errors
        for client in newcomers:
            await client.login("new")
        for module, old, new in (change, ("__init__", f'"{__version__}"', f'"{_NEW}"')):
            installed.install(module, new, old)
        assert (await upgraded(installed))["upgrade_reverted"] is None
        await crowd.go()
        for client in newcomers:
            await client.leave()
        await vip.wait_records(105)
        one_record_each(vip, 105)


async def _decides_again(balancer: InstalledBalancer) -> bool:
    try:
        status = await balancer.status()
    except UnreachableError:
        return False
    return bool(status["upgrade_reverted"]) and status["status"] == "running"


async def test_a_defect_that_a_trial_start_shows_is_refused(installed: InstalledBalancer) -> None:
    """A router that raises at start: the old one never makes way, and the command has the error."""
    await asyncio.to_thread(installed.start)
    async with labs(1) as servers:
        vip = await installed.serve(servers)
        client = await vip.opened("alice")
        await client.login("alice")
        router = await installed.router_pid()
        installed.install(
            "runtime/child", "    router = Router(", "    raise OSError('no such luck')\n    router = Router("
        )
        done = await installed.command("upgrade", "--wait")
        assert 1 == done.returncode
        assert "OSError: no such luck" in done.stderr
        assert router == await installed.router_pid()
        await client.echo_check(random.Random(1), 1000)
        assert [] == [each for each in (installed.folder / "state").iterdir() if "rehearsal" in each.name]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
async def test_a_signal_on_the_way_back(installed: InstalledBalancer, number: signal.Signals) -> None:
    """SIGTERM ends the service with every record; SIGHUP is carried out by the version that is back."""
    await asyncio.to_thread(installed.start)
    async with labs(1) as servers:
        vip = await installed.serve(servers)
        client = await vip.opened("alice")
        await client.login("alice")
        installed.install(*_BROKEN["raises"][0])
        before = len(installed.events("reloaded"))
        done = asyncio.get_running_loop().create_task(installed.command("upgrade"))
        await wait_until_async(lambda: installed.events("upgrade_reverting"), 40, "the way back")
        os.kill(installed.pid, number)
        await done
        if number == signal.SIGHUP:
            await wait_until_async(lambda: len(installed.events("reloaded")) > before, 20, "the reload")
            assert installed.events("upgrade_reverted")
            await client.echo_check(random.Random(1), 1000)
        else:
            await client.leave()
            assert installed.process is not None
            assert 0 == await asyncio.to_thread(installed.process.wait, 20)
            assert ["eof"] == [record["close_reason"] for record in vip.records()]


async def test_replaced_files_change_nothing_until_the_upgrade(installed: InstalledBalancer) -> None:
    """A router that dies after `pip install` is started from the code that runs; status and log say so."""
    await asyncio.to_thread(installed.start)
    async with labs(1) as servers:
        vip = await installed.serve(servers)
        client = await vip.opened("alice")
        await client.login("alice")
        installed.install("__init__", f'"{__version__}"', f'"{_NEW}"')
        installed.install("core/route", "class Reject", "class class Reject")
        installed.kill(await installed.router_pid())
        await installed.answers_again()
        status = await installed.status()
        assert (__version__, True) == (status["version"], status["code_changed"])
        assert 1 == len(installed.events("code_changed"))
        await client.echo_check(random.Random(1), 1000)
        await (await vip.opened("bob")).login("bob")
