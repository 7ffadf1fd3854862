"""Starting the service: what it shows of itself, and what it says when it cannot start."""

import asyncio
import socket
import time
from pathlib import Path

import pytest

from rdpbalancer.lab.client import LabClient
from tests.support.processes import command_line
from tests.support.running_balancer import RunningBalancer, labs


async def test_every_process_shows_its_role(balancer: RunningBalancer) -> None:
    """`ps` tells supervisor, router and relay apart."""
    titles = sorted(command_line(pid) for pid in balancer.processes())
    assert ["rdpbalancer: relay 1", "rdpbalancer: router", "rdpbalancer: supervisor"] == titles
    assert command_line(await balancer.router_pid()) == "rdpbalancer: router"


async def test_metrics_over_http(balancer: RunningBalancer) -> None:
    """The metrics page, liveness, and nothing else."""
    metrics = await balancer.scrape()
    for name in (
        "build_info",
        "relay_up",
        "relay_sessions",
        "half_open",
        "event_loop_lag_seconds_count",
        "config_last_reload_timestamp_seconds",
        "server_state",
        "server_weight",
    ):
        assert f"rdpbalancer_{name}" in metrics, name
    assert (200, "ok\n") == await balancer.get("/healthz")
    assert 404 == (await balancer.get("/"))[0]


async def test_users_are_no_labels(balancer: RunningBalancer) -> None:
    """Neither a user nor an address ever becomes a label."""
    async with labs(1) as servers:
        vip = await balancer.serve(servers)
        await vip.opened("somebody", source="127.0.0.99")
        text = str(await balancer.scrape())
        assert "somebody" not in text
        assert "127.0.0.99" not in text


def test_a_bad_configuration(tmp_path: Path) -> None:
    """Exit status 78, and every error with its place."""
    balancer = RunningBalancer(tmp_path)
    balancer.set_global(relais=3)
    balancer.write_configuration()
    with pytest.raises(AssertionError):
        balancer.start()
    assert balancer.process is not None
    assert 78 == balancer.process.returncode
    assert f"{balancer.configuration}:" in balancer.process.output()
    assert "did you mean 'relays'" in balancer.process.output()


def test_a_taken_address(tmp_path: Path) -> None:
    """It says which address; exit status 1, for trying again may help; no process stays."""
    balancer = RunningBalancer(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        at = f"127.0.0.1:{taken.getsockname()[1]}"
        balancer.services[0]["listen"] = at
        balancer.write_configuration()
        with pytest.raises(AssertionError):
            balancer.start()
    assert balancer.process is not None
    assert 1 == balancer.process.returncode
    assert f"cannot listen on {at}" in balancer.process.output()
    assert "Traceback" not in balancer.process.output()
    assert [] == balancer.process.children()


async def test_a_second_service_on_the_same_folders(tmp_path: Path) -> None:
    """A running service loses nothing to it: not its control socket, not the configuration it runs with."""
    balancer = RunningBalancer(tmp_path)
    await asyncio.to_thread(balancer.start)
    try:
        before = await balancer.ask("services")
        other = RunningBalancer(tmp_path, state_dir=str(tmp_path / "second"))
        other.configuration = tmp_path / "second.yaml"
        other.services[0]["name"] = "intruder"
        other.write_configuration()
        done = await balancer.command("run", "-c", str(other.configuration))
        assert 1 == done.returncode
        assert "control.sock" in done.stderr
        balancer.kill(await balancer.router_pid())
        await balancer.answers_again()
        assert before == await balancer.ask("services")
    finally:
        assert 0 == await asyncio.to_thread(balancer.stop)


async def test_the_port_is_free_at_once_after_a_stop(tmp_path: Path) -> None:
    """Stop and start again, with connections from before in TIME_WAIT: no waiting for the port."""
    balancer = RunningBalancer(tmp_path, shutdown_timeout="0")
    await asyncio.to_thread(balancer.start)
    try:
        async with labs(1) as servers:
            vip = await balancer.serve(servers)
            await vip.opened("alice")
            await asyncio.to_thread(balancer.stop)
            await asyncio.to_thread(balancer.start)
            client: LabClient = await vip.opened("alice")
            assert "ts1" == (await client.login("alice")).server
    finally:
        balancer.dismiss()
        assert 0 == await asyncio.to_thread(balancer.stop)


async def test_one_silent_server_does_not_delay_the_start(tmp_path: Path) -> None:
    """Its first check may take 30 s; connections to the others are taken long before that."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        check = {"type": "rdp", "timeout": "30s"}
        service = {
            "name": "slow",
            "health_check": check,
            "real_servers": [{"name": "ts1", "address": address}],
        }
        balancer = RunningBalancer(tmp_path, relays=1, services=[service])
        try:
            await asyncio.to_thread(balancer.start)  # fails if it does not answer within 15 s
            assert "running" == (await balancer.status())["status"]
        finally:
            balancer.stop()


async def test_a_slow_first_check_delays_only_its_own_service(tmp_path: Path) -> None:
    """A silent server may take 30 s to be found out; the users of other services come in at once."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        slow = {
            "name": "slow",
            "health_check": {"timeout": "30s"},
            "real_servers": [{"name": "ts1", "address": address}],
        }
        balancer = RunningBalancer(tmp_path, relays=1)
        await asyncio.to_thread(balancer.start)
        try:
            async with labs(1) as servers:
                vip = await balancer.serve(servers)
                balancer.services.append({**slow, "listen": "127.0.0.1:0"})
                await balancer.reload()
                balancer.kill(await balancer.router_pid())
                began_at = time.monotonic()
                await balancer.answers_again()
                client = await vip.opened("alice")
                assert "ts1" == (await client.login("alice")).server
                # Half a second, and what it takes to start a router on a busy machine; it was 10 s, and 30 s.
                assert time.monotonic() - began_at < 8
                (row,) = await balancer.ask("servers", service="slow")
                assert "checking" == row["health"]
                assert "starting" != (await balancer.status())["status"]
        finally:
            balancer.dismiss()
            await asyncio.to_thread(balancer.stop)


async def test_users_go_back_to_servers_that_are_still_being_checked(tmp_path: Path) -> None:
    """The first check after a start takes 30 s: a user with a desktop gets it at once, and no other one."""
    balancer = RunningBalancer(tmp_path, relays=1)
    await asyncio.to_thread(balancer.start)
    try:
        async with labs(2) as servers:
            with socket.create_server(("127.0.0.1", 0)) as silent:
                vip = await balancer.serve(servers)
                client = await vip.opened("alice")
                home = (await client.login("alice")).server
                check = {"timeout": "30s", "port": silent.getsockname()[1]}
                vip.description["health_check"] = check
                await balancer.written_down(bindings=1)
                await balancer.reload()
                balancer.kill(await balancer.router_pid())
                await balancer.answers_again()
                client = await vip.opened("alice")
                assert home == (await client.login("alice")).server
                assert {"checking"} == {row["health"] for row in (await vip.servers()).values()}
                assert {"alice": home} == await vip.bindings()
    finally:
        balancer.dismiss()
        await asyncio.to_thread(balancer.stop)
