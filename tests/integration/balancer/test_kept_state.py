"""What users and operators rely on is kept over restarts, other configurations and second instances."""

import asyncio
import os
import shutil
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import RealProcess
from tests.support.running_balancer import RunningBalancer, Vip, labs
from tests.support.wait import wait_until_async


@pytest.fixture
def home(tmp_path: Path) -> Iterator[RunningBalancer]:
    """A balancer of the test's own, not started; stopped at the end."""
    balancer = RunningBalancer(tmp_path, shutdown_timeout="0")
    yield balancer
    balancer.dismiss()
    if balancer.process is not None and balancer.process.returncode is None:
        assert 0 == balancer.stop()


async def start(balancer: RunningBalancer) -> None:
    """Start it, and wait until its servers can be used."""
    await asyncio.to_thread(balancer.start)


async def start_again(balancer: RunningBalancer) -> None:
    """Stop it and start it anew, as `systemctl restart` does."""
    await asyncio.to_thread(balancer.stop)
    balancer.write_configuration()
    await start(balancer)


async def settled(balancer: RunningBalancer, vip: Vip) -> dict[str, str]:
    """Have two users log in and leave and an operator halt ts2; return who is bound where."""
    for user in ("alice", "bob"):
        client = await vip.opened(user)
        await client.login(user)
        await client.leave()
    await balancer.json("halt", "ts2", "--service", vip.name, "--reason", "disk full")
    bindings = await vip.bindings()
    assert {"alice", "bob"} == bindings.keys()
    await balancer.written_down(bindings=2, overrides=1)
    return bindings


@asynccontextmanager
async def settled_farm(balancer: RunningBalancer) -> AsyncIterator[tuple[Vip, dict[str, str]]]:
    """Start it with a service of two servers; yield that, `settled`, and who is bound where."""
    await start(balancer)
    async with labs(2) as servers:
        vip = await balancer.serve(servers, scheduler="weighted-round-robin")
        yield vip, await settled(balancer, vip)


async def assert_kept(vip: Vip, bindings: dict[str, str]) -> None:
    """Everybody is bound as before, and ts2 is halted with the reason that was given."""

    async def all_there() -> bool:
        return bindings == await vip.bindings()

    await wait_until_async(all_there, 10, lambda: "the bindings of before")
    row = (await vip.servers())["ts2"]
    assert "halt" == row["state"]
    assert "disk full" == row["operator"]["reason"]


async def test_a_service_is_taken_out_and_put_back_over_restarts(home: RunningBalancer) -> None:
    """The configuration at hand may be an old one or a trial: what it does not name is kept."""
    async with settled_farm(home) as (vip, bindings):
        described = home.services.pop()
        await start_again(home)
        assert vip.name not in {row["name"] for row in await home.ask("services")}
        await start_again(home)
        home.services.append(described)
        await start_again(home)
        await assert_kept(vip, bindings)


async def test_a_service_is_taken_out_before_a_kill_and_put_back_by_a_reload(home: RunningBalancer) -> None:
    """As above, where only the router starts anew."""
    async with settled_farm(home) as (vip, bindings):
        described = home.services.pop()
        await home.reload()
        home.kill(await home.router_pid())
        await home.answers_again()
        home.services.append(described)
        await home.reload()
        await assert_kept(vip, bindings)


async def test_a_server_is_taken_out_and_put_back(home: RunningBalancer) -> None:
    """It comes back halted, as the operator left it."""
    async with settled_farm(home) as (vip, bindings):
        taken = home.services[-1]["real_servers"].pop()
        await start_again(home)
        assert {"ts1"} == (await vip.servers()).keys()
        home.services[-1]["real_servers"].append(taken)
        await start_again(home)
        await assert_kept(vip, bindings)


async def refused(balancer: RunningBalancer, **keys: Any) -> str:
    """Start another service with a configuration of its own beside `balancer`; return what it says."""
    folder = balancer.folder / "other"
    folder.mkdir()
    other = RunningBalancer(folder, **keys)
    done = await balancer.command("run", "-c", str(other.configuration))
    assert 1 == done.returncode
    return done.stderr


async def test_a_second_instance_on_the_same_state(home: RunningBalancer) -> None:
    """It is told who is there, and changes nothing."""
    async with settled_farm(home) as (vip, bindings):
        said = await refused(home, state_dir=str(home.folder / "state"))
        (line,) = said.splitlines()
        assert f"process {home.pid}, running {home.configuration}" in line
        assert "give this one a state_dir of its own" in line
        await start_again(home)
        await assert_kept(vip, bindings)


async def test_an_instance_on_a_copy_of_the_state(home: RunningBalancer) -> None:
    """A trial with folders of its own is nobody's business, a copied lock no lock."""
    async with settled_farm(home) as (vip, bindings):
        trial_folder = home.folder / "trial"
        trial_folder.mkdir()
        await asyncio.to_thread(shutil.copytree, home.folder / "state", trial_folder / "state")
        trial = RunningBalancer(trial_folder, shutdown_timeout="0")
        await asyncio.to_thread(trial.start)
        assert 0 == await asyncio.to_thread(trial.stop)
        await assert_kept(vip, bindings)


async def test_the_lock_outlives_the_router_and_an_upgrade(home: RunningBalancer) -> None:
    """It is the supervisor's, and the next program takes it along."""
    await start(home)
    home.kill(await home.router_pid())
    await home.answers_again()
    upgraded = await home.command("upgrade", "--wait")
    assert 0 == upgraded.returncode, upgraded.stderr
    assert f"process {home.pid}," in await refused(home, state_dir=str(home.folder / "state"))


async def test_a_state_file_that_is_locked_for_a_while(home: RunningBalancer) -> None:
    """A backup holds it when the service starts: it serves, and takes up its state as soon as it can."""
    async with settled_farm(home) as (vip, bindings):
        await asyncio.to_thread(home.stop)
        home.write_configuration()
        with closing(sqlite3.connect(home.folder / "state" / "state.db", isolation_level=None)) as backup:
            backup.execute("PRAGMA locking_mode = EXCLUSIVE")
            backup.execute("BEGIN EXCLUSIVE")
            await start(home)
            await wait_until_async(lambda: bool(home.events("state_unusable")), 10, "the error in the log")
            assert "state-unusable" in {row["code"] for row in (await home.status())["warnings"]}
            client = await vip.opened("carol")
            await client.login("carol")
            await client.leave()
        await wait_until_async(lambda: bool(home.events("state_usable_again")), 20, "the state file")
        assert "state-unusable" not in {row["code"] for row in (await home.status())["warnings"]}
        bindings |= {"carol": (await vip.bindings())["carol"]}
        await assert_kept(vip, bindings)
        await home.written_down(bindings=3, overrides=1)
        await start_again(home)
        await assert_kept(vip, bindings)


@pytest.mark.skipif(os.geteuid() != 0, reason="another user's file needs root")
async def test_a_key_for_hashed_names_that_cannot_be_kept(home: RunningBalancer) -> None:
    """It is no reason not to serve anybody: another key until the next start, and a warning."""
    home.set_global(log={"format": "json", "level": "debug", "user": "hash"})
    home.write_configuration()
    key = home.folder / "state" / "user-hash.key"
    key.mkdir(parents=True)
    await start(home)
    (event,) = home.events("user_hash_key_not_kept")
    assert str(key) in event["detail"]
    assert ["user-hash.key"] == [file.name for file in key.parent.glob("*user-hash*")]
    assert "user-hash-key-not-kept" in {row["code"] for row in (await home.status())["warnings"]}
    key.rmdir()
    await home.reload()
    assert key.is_file()
    assert "user-hash-key-not-kept" not in {row["code"] for row in (await home.status())["warnings"]}


def test_what_is_kept_of_a_house_that_ended(tmp_path: Path) -> None:
    """The lock's file stays, the lock does not."""
    balancer = RunningBalancer(tmp_path, shutdown_timeout="0")
    process: RealProcess = balancer.start()
    assert process.pid == balancer.pid
    assert 0 == balancer.stop()
    assert (tmp_path / "state" / "rdpbalancer.lock").exists()
    balancer.start()
    assert 0 == balancer.stop()
