"""Listeners of the service manager: taken at start, stored with it, and given back after a crash."""

import asyncio
import os
import random
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from rdpbalancer.lab.server import LabServer
from rdpbalancer.model import Endpoint
from rdpbalancer.net import listen
from rdpbalancer.runtime.socket_activation import store_name
from tests.faults.upgrade.manager import ManagedBalancer, Manager
from tests.faults.upgrade.upgrading import gone, upgraded
from tests.support.running_balancer import QUICK_CHECKS, Vip, labs, real_server
from tests.support.wait import wait_until_async

pytestmark = pytest.mark.faults


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    """The service manager."""
    with Manager(tmp_path) as manager:
        yield manager


def _managed(folder: Path, manager: Manager, server: LabServer, listener: str) -> ManagedBalancer:
    service = {
        "name": "ts",
        "listen": listener,
        "health_check": QUICK_CHECKS,
        "real_servers": [real_server(server)],
    }
    balancer = ManagedBalancer(folder, relays=1, services=[service])
    balancer.notify = manager.address
    return balancer


async def _close(balancer: ManagedBalancer) -> None:
    balancer.dismiss()
    await asyncio.to_thread(balancer.stop)  # the simulated server has to see its sessions end
    assert [] == balancer.complaints()


async def test_a_passed_listener_is_used(tmp_path: Path, manager: Manager) -> None:
    """LISTEN_FDS: a client that connected before the service ran is served; upgrades keep the socket."""
    listener = listen.tcp(Endpoint("127.0.0.1", 0))
    address = f"127.0.0.1:{listener.getsockname()[1]}"
    async with labs(1) as servers:
        balancer = _managed(tmp_path, manager, servers[0], address)
        balancer.passed = [listener]
        vip = Vip(balancer, "ts")
        early = vip.client("early")
        await early.connect()
        await early.send_request()
        await asyncio.to_thread(balancer.start)
        try:
            await early.await_confirm()
            await early.login("early")
            assert manager.said(READY="1")
            # It is the manager's own socket: what it passed need not be stored with it.
            assert not manager.said(FDSTORE="1", FDNAME=store_name(address))
            await upgraded(balancer)
            await early.echo_check(random.Random(1), 10_000)
            listener.close()
            await (await vip.opened("late")).login("late")
        finally:
            await _close(balancer)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(balancer.endpoint("ts"))


async def test_what_is_passed_for_somebody_else_is_let_go(tmp_path: Path, manager: Manager) -> None:
    """A socket that no service listens on is closed, not held open without anybody who accepts."""
    strange = listen.tcp(Endpoint("127.0.0.1", 0))
    where = strange.getsockname()
    async with labs(1) as servers:
        balancer = _managed(tmp_path, manager, servers[0], f"127.0.0.1:{_free()}")
        balancer.passed = [strange]
        await asyncio.to_thread(balancer.start)
        strange.close()
        try:
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(where)
            await Vip(balancer, "ts").opened("alice")
        finally:
            await _close(balancer)


def _free() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        port: int = found.getsockname()[1]
        return port


async def test_a_crash_of_the_supervisor(tmp_path: Path, manager: Manager) -> None:
    """The manager holds the listeners: who connects meanwhile waits and is served by the next."""
    async with labs(1) as servers:
        address = f"127.0.0.1:{_free()}"
        balancer = _managed(tmp_path, manager, servers[0], address)
        await asyncio.to_thread(balancer.start)
        try:
            vip, name = Vip(balancer, "ts"), store_name(address)
            assert manager.said(FDSTORE="1", FDNAME=name)
            assert {name, store_name(str(balancer.metrics)), store_name(_resting(balancer))} >= set(
                manager.stored
            )
            before = await vip.opened("alice")
            home = await before.login("alice")
            await balancer.written_down(bindings=1)
            children = set(balancer.processes()) - {balancer.pid}
            os.kill(balancer.pid, signal.SIGKILL)
            await gone(children)
            assert balancer.process is not None
            await asyncio.to_thread(balancer.process.stop)
            before.close()
            waiting = vip.client("alice")
            await waiting.connect()  # nobody runs; the kernel takes it
            await waiting.send_request()
            balancer.passed = list(manager.stored.values())
            await asyncio.to_thread(balancer.start)
            await waiting.await_confirm()
            assert home.desktop == (await waiting.login("alice")).desktop
        finally:
            await _close(balancer)


def _resting(balancer: ManagedBalancer) -> str:
    return str(balancer.endpoint("resting"))


async def test_what_a_reload_closes_is_forgotten(tmp_path: Path, manager: Manager) -> None:
    """A listener that the configuration names no more is given up at the manager, too."""
    async with labs(1) as servers:
        balancer = _managed(tmp_path, manager, servers[0], f"127.0.0.1:{_free()}")
        await asyncio.to_thread(balancer.start)
        try:
            added = await balancer.serve(servers)
            name = store_name(str(added.endpoint))
            await wait_until_async(lambda: manager.said(FDSTORE="1", FDNAME=name), 5, "the new listener")
            balancer.services.remove(added.description)
            await balancer.reload()
            await wait_until_async(lambda: manager.said(FDSTOREREMOVE="1", FDNAME=name), 5, "its end")
            assert name not in manager.stored
        finally:
            await _close(balancer)
