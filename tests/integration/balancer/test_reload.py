"""Reloading: whole or not at all, and nothing that stays is disturbed."""

import asyncio
import os
import random
import signal
import socket
import stat

import pytest

from rdpbalancer.control.client import CommandRefusedError
from rdpbalancer.lab.channel import LabError
from rdpbalancer.lab.client import LabClient
from rdpbalancer.lab.opening import LabOpening
from rdpbalancer.model import Endpoint
from tests.support.processes import free_ports, is_alive, is_listening
from tests.support.running_balancer import RunningBalancer, Vip, labs, real_server
from tests.support.wait import wait_until_async


@pytest.mark.parametrize("balancer", [0, 1], indirect=True)
async def test_what_stays_is_not_disturbed(balancer: RunningBalancer) -> None:
    """A changed weight keeps health, bindings, sessions and counters; an unchanged server all the more."""
    async with labs(2) as servers:
        vip = await balancer.serve(servers)
        alice = await vip.opened("alice")
        home = (await alice.login("alice")).server
        await balancer.ask("set-weight", server="ts2", weight=7, service=vip.name)
        before = await vip.servers()
        vip.description["real_servers"] = [real_server(servers[0], weight=33), real_server(servers[1])]
        vip.description["scheduler"] = "weighted-round-robin"
        changes = await balancer.reload()
        assert ([vip.name], [f"{vip.name}/ts1"]) == (changes["services_changed"], changes["servers_changed"])
        after = await vip.servers()
        assert (33, "up", 7) == (after["ts1"]["weight"], after["ts1"]["health"], after["ts2"]["weight"])
        assert [row["last_change"] for row in before.values()] == pytest.approx(
            [row["last_change"] for row in after.values()], abs=0.1
        )
        await alice.echo_check(random.Random(1), 10_000)
        assert {"alice": home} == await vip.bindings()
        assert 1 == await vip.count("sessions_total")
        again = await vip.opened("alice")
        assert home == (await again.login("alice")).server


async def test_servers_come_and_go(balancer: RunningBalancer) -> None:
    """An added server is checked, then used; a removed one keeps its sessions until they end."""
    async with labs(3) as servers:
        vip = await balancer.serve(servers[:2], scheduler="first-available")
        alice = await vip.opened("alice")
        assert "ts1" == (await alice.login("alice")).server
        vip.description["real_servers"] = [real_server(servers[2]), real_server(servers[1])]
        changes = await balancer.reload()
        assert ([f"{vip.name}/ts3"], [f"{vip.name}/ts1"]) == (
            changes["servers_added"],
            changes["servers_removed"],
        )
        await vip.wait_server("ts3", health="up")
        await alice.echo_check(random.Random(1), 10_000)
        (row,) = await vip.sessions()
        assert ("alice", "ts1") == (row["user"], row["server"])
        bob = await vip.opened("bob")
        assert "ts3" == (await bob.login("bob")).server
        again = await vip.opened("alice")
        assert "ts3" == (await again.login("alice")).server
        await alice.leave()
        assert "ts1" == (await vip.wait_records(1))[0]["server"]


async def test_a_changed_address_is_followed(balancer: RunningBalancer) -> None:
    """The same name at another address: bindings lead there, live sessions stay where they are."""
    async with labs(2) as servers:
        vip = await balancer.serve([real_server(servers[0])])
        alice = await vip.opened("alice")
        await alice.login("alice")
        vip.description["real_servers"] = [{"name": "ts1", "address": str(servers[1].endpoint)}]
        await balancer.reload()
        await vip.wait_server("ts1", health="up", address=str(servers[1].endpoint))
        again = await vip.opened("alice")
        assert "ts2" == (await again.login("alice")).server  # the simulated server's own name
        await alice.echo_check(random.Random(1), 1000)
        assert {"alice": "ts1"} == await vip.bindings()


@pytest.mark.parametrize("balancer", [0, 1], indirect=True)
async def test_services_and_listeners_come_and_go(balancer: RunningBalancer) -> None:
    """A new listener is opened, one that is gone is closed, one that stays never closes."""
    async with labs(2) as servers:
        vip = await balancer.serve([real_server(servers[0])])
        alice = await vip.opened("alice")
        (extra,) = free_ports(1)
        first = str(vip.endpoint)
        vip.description["listen"] = [first, f"127.0.0.1:{extra}"]
        await balancer.reload()
        other = await balancer.serve([real_server(servers[1])])
        bob = await other.opened("bob")
        assert "ts2" == (await bob.login("bob")).server
        assert is_listening(extra)
        vip.description["listen"] = first
        await balancer.reload()
        await wait_until_async(lambda: not is_listening(extra), 5, "the closed listener")
        balancer.services.remove(other.description)
        await balancer.reload()
        await wait_until_async(
            lambda: not is_listening(bob.endpoint.port), 5, "the closed service's listener"
        )
        await bob.echo_check(random.Random(1), 10_000)
        await bob.leave()
        assert "ts1" == (await alice.login("alice")).server
        assert "ts2" == (await other.wait_records(1))[0]["server"]


async def test_a_service_may_take_over_anothers_address(balancer: RunningBalancer) -> None:
    """Renaming a service keeps its address open; sessions of the old name go on."""
    async with labs(1) as servers:
        vip = await balancer.serve(servers)
        alice = await vip.opened("alice")
        renamed = {**balancer.describe(servers), "listen": str(vip.endpoint)}
        balancer.services[-1] = renamed
        await balancer.reload()
        heir = Vip(balancer, renamed["name"])
        await heir.wait_server("ts1", health="up")
        bob = await heir.opened("bob")
        assert "ts1" == (await bob.login("bob")).server
        await alice.login("alice")
        await alice.leave()
        assert "alice" == (await vip.wait_records(1))[0]["user"]


@pytest.mark.parametrize("balancer", [0, 1], indirect=True)
async def test_a_dry_run_says_what_would_change_and_changes_nothing(balancer: RunningBalancer) -> None:
    """The words of a reload, also of a file with a mistake; neither farm nor metrics nor log are touched."""
    async with labs(3) as servers:
        vip = await balancer.serve(servers[:2])
        good = balancer.configuration.read_text()
        before = {name: (row["weight"], row["address"]) for name, row in (await vip.servers()).items()}
        (last, *_) = (await balancer.ask("events"))[-1:]
        vip.description["real_servers"] = [real_server(servers[2]), real_server(servers[1], weight=7)]
        balancer.write_configuration()
        good_run = await balancer.command("reload", "--dry-run")
        balancer.configuration.write_text(good.replace('"name"', '"nane"'))
        bad_run = await balancer.command("reload", "--dry-run")
        balancer.configuration.write_text(good)
        assert (0, "") == (good_run.returncode, good_run.stderr)
        for change in (
            f"1 server added: {vip.name}/ts3",
            f"1 server removed: {vip.name}/ts1",
            f"1 server changed: {vip.name}/ts2 (weight 100 -> 7)",
        ):
            assert change in good_run.stdout
        assert (78, True) == (bad_run.returncode, "unknown key" in bad_run.stderr)
        after = {name: (row["weight"], row["address"]) for name, row in (await vip.servers()).items()}
        assert (before, [last]) == (after, (await balancer.ask("events"))[-1:])
        assert [({}, 1.0)] == (await balancer.scrape())["rdpbalancer_config_last_reload_successful"]


async def test_a_bad_file_changes_nothing(balancer: RunningBalancer) -> None:
    """Every error with file, line and column, exit status 78; what runs goes on as it was."""
    async with labs(1) as servers:
        vip = await balancer.serve(servers)
        good = balancer.configuration.read_text()
        lines = good.splitlines()
        at = next(n for n, line in enumerate(lines, 1) if f'"name": "{vip.name}"' in line)
        balancer.configuration.write_text(
            good.replace(f'"name": "{vip.name}"', f'"name": "{vip.name}", "schedular": "x", "mode": "rpd"')
        )
        done = await balancer.command("reload")
        assert f"{balancer.configuration}:{at}:" in done.stderr
        assert all(word in done.stderr for word in ("schedular", "did you mean", "mode"))
        assert 78 == done.returncode
        metrics = await balancer.scrape()
        assert [({}, 0.0)] == metrics["rdpbalancer_config_last_reload_successful"]
        alice = await vip.opened("alice")
        assert "ts1" == (await alice.login("alice")).server
        balancer.configuration.write_text(good)
        assert 0 == (await balancer.command("reload", "--wait")).returncode
        metrics = await balancer.scrape()
        assert [({}, 1.0)] == metrics["rdpbalancer_config_last_reload_successful"]


async def test_a_taken_address_fails_whole(balancer: RunningBalancer) -> None:
    """One address that cannot be opened: nothing of the new configuration is applied, the rest included."""
    async with labs(2) as servers:
        vip = await balancer.serve([real_server(servers[0])])
        before = balancer.descriptors()
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            (free,) = free_ports(1)
            vip.description["listen"] = [str(vip.endpoint), f"127.0.0.1:{free}", f"127.0.0.1:{port}"]
            vip.description["real_servers"].append(real_server(servers[1]))
            with pytest.raises(CommandRefusedError, match=f"127.0.0.1:{port}"):
                await balancer.reload()
        assert ["ts1"] == list(await vip.servers())
        assert not is_listening(free)
        await wait_until_async(
            lambda: balancer.descriptors()[balancer.pid] <= before[balancer.pid], 5, "no socket left open"
        )
        assert "ts1" == (await (await vip.opened("alice")).login("alice")).server


async def test_the_state_folder_cannot_move(balancer: RunningBalancer) -> None:
    """What cannot change while the service runs is refused, and says so."""
    old = balancer.configuration.read_text()
    for keys in ({"state_dir": "/tmp/elsewhere"}, {"relays": 0}):
        balancer.set_global(**keys)
        with pytest.raises(CommandRefusedError, match="restart it"):
            await balancer.reload()
        balancer.set_global(state_dir=str(balancer.folder / "state"), relays=1)
    balancer.write_configuration()
    assert old == balancer.configuration.read_text()


async def test_a_reload_changes_the_number_of_relays_without_losing_a_session(
    balancer: RunningBalancer,
) -> None:
    """Relays 1 -> 2 -> 1 -> 3 -> 1: sessions stay with their relay, surplus ones end when empty."""
    async with labs(1) as servers:
        vip = await balancer.serve(servers)
        clients: list[LabClient] = []
        for relays in (2, 1, 3, 1):
            balancer.set_global(relays=relays)
            await balancer.reload()
            known = {row["id"] for row in await vip.sessions()}

            async def all_serve(known: set[str] = known, relays: int = relays) -> bool:
                """Open one more session, and tell whether every wanted relay has got one by now."""
                client = await vip.opened(f"u{len(clients)}")
                await client.login("x")
                clients.append(client)
                fresh = {row["relay"] for row in await vip.sessions() if row["id"] not in known}
                assert len(fresh) <= relays
                return len(fresh) == relays

            await wait_until_async(all_serve, 8, f"{relays} relays with sessions")
            for number, client in enumerate(clients):
                await client.echo_check(random.Random(number), 3000)
        holding = {row["relay"] for row in await vip.sessions()}
        assert len(holding) > 1
        for client in clients:
            await client.leave()

        async def one_left() -> bool:
            return len(await balancer.relay_pids()) == 1

        await wait_until_async(one_left, 5, "one relay")
        (last,) = await balancer.relay_pids()
        await wait_until_async(
            lambda: not any(is_alive(pid) for pid in holding - {last}), 5, "the end of surplus relays"
        )
        assert len(clients) == len(await vip.wait_records(len(clients)))
        assert {"eof"} == {record["close_reason"] for record in vip.records()}


async def test_sighup_reloads(balancer: RunningBalancer) -> None:
    """The classic signal works as well, and reports in the log."""
    async with labs(2) as servers:
        vip = await balancer.serve([real_server(servers[0])])
        vip.description["real_servers"].append(real_server(servers[1]))
        balancer.write_configuration()
        os.kill(balancer.pid, signal.SIGHUP)
        await wait_until_async(lambda: _two(vip), 5, "the second server")


async def _two(vip: Vip) -> bool:
    return len(await vip.servers()) == 2


@pytest.mark.parametrize(
    ("wide", "narrow"), [("0.0.0.0", "127.0.0.1"), ("[::]", "[::1]")], ids=["ipv4", "ipv6"]
)
async def test_narrowing_and_widening_an_address(balancer: RunningBalancer, wide: str, narrow: str) -> None:
    """From every address to one of them and back: nobody who connects meanwhile is refused or reset."""
    async with labs(1) as servers:
        (port,) = free_ports(1)
        vip = await balancer.serve(servers)
        vip.description["listen"] = f"{narrow}:{port}"
        await balancer.reload()
        coming = Comers(Endpoint(narrow.strip("[]"), port))
        for host in (wide, narrow, wide, narrow):
            vip.description["listen"] = f"{host}:{port}"
            await balancer.reload()
            await coming.more(8)
        await coming.stop()
        assert [] == (await balancer.status())["listeners_missing"]


async def test_ipv6_is_added_and_removed(balancer: RunningBalancer) -> None:
    """Beside IPv4, wide and narrow: nobody who comes by IPv4 meanwhile is refused, and all sessions stay."""
    async with labs(1) as servers:
        (port,) = free_ports(1)
        vip = await balancer.serve(servers)
        vip.description["listen"] = f"0.0.0.0:{port}"
        await balancer.reload()
        held = [await _logged_in(Endpoint("127.0.0.1", port))]
        coming = Comers(Endpoint("127.0.0.1", port))
        for hosts in (["0.0.0.0", "[::]"], ["127.0.0.1", "[::1]"], ["[::]", "127.0.0.1"], ["0.0.0.0"]):
            vip.description["listen"] = [f"{host}:{port}" for host in hosts]
            await balancer.reload()
            await coming.more(8)
            if len(hosts) == 2:
                held.append(await _logged_in(Endpoint("::1", port)))
        with pytest.raises(LabError) as refused:
            await _logged_in(Endpoint("::1", port))
        assert "refused" == refused.value.code
        await coming.stop()
        for number, client in enumerate(held):
            await client.echo_check(random.Random(number), 10_000)
            await client.leave()
        assert [] == (await balancer.status())["listeners_missing"]


async def _logged_in(endpoint: Endpoint) -> LabClient:
    client = LabClient(endpoint, LabOpening(cookie="alice"), timeout_s=10)
    await client.open()
    await client.login("alice")
    return client


class Comers:
    """Four users who come and go without a pause; the first error of one ends them all, at `stop`."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._served = 0
        self._over = False
        self._tasks = [asyncio.get_running_loop().create_task(self._come()) for _ in range(4)]

    async def _come(self) -> None:
        while not self._over:
            client = await _logged_in(self._endpoint)
            await client.leave()
            client.close()
            self._served += 1

    async def more(self, count: int) -> None:
        """Wait until that many more have been served."""
        wanted = self._served + count
        await wait_until_async(lambda: self._served >= wanted, 10, "users after the reload")

    async def stop(self) -> None:
        """Let the last ones leave. Raises what one of them has met with."""
        self._over = True
        await asyncio.gather(*self._tasks)


async def test_another_programs_listener_is_not_shared(balancer: RunningBalancer) -> None:
    """Widening to an address that includes somebody else's listener is refused, and changes nothing."""
    async with labs(1) as servers:
        vip = await balancer.serve(servers)
        with socket.create_server(("127.0.0.2", vip.endpoint.port)):
            first = vip.description["listen"]
            vip.description["listen"] = f"0.0.0.0:{vip.endpoint.port}"
            with pytest.raises(CommandRefusedError, match="another program listens there"):
                await balancer.reload()
            vip.description["listen"] = first
            await (await vip.opened("alice")).login("alice")


async def test_the_control_sockets_mode_changes(balancer: RunningBalancer) -> None:
    """`control_socket_mode` is of the file that is there, from the reload on."""
    for mode in ("0600", "0660"):
        balancer.set_global(control_socket_mode=mode)
        await balancer.reload()
        assert int(mode, 8) == stat.S_IMODE(balancer.socket.stat().st_mode)


async def test_a_configuration_that_cannot_be_kept_is_refused(balancer: RunningBalancer) -> None:
    """Without room for it in `runtime_dir` a restarted router would use the old one: nothing changes."""
    async with labs(1) as servers:
        vip = await balancer.serve(servers)
        (port,) = free_ports(1)
        kept = balancer.folder / "run" / "active.json"
        aside = kept.with_suffix(".aside")
        kept.rename(aside)
        kept.mkdir()
        (kept / "in-the-way").touch()
        first = vip.description["listen"]
        vip.description["listen"] = f"127.0.0.1:{port}"
        try:
            with pytest.raises(CommandRefusedError, match="cannot be kept"):
                await balancer.reload()
        finally:
            (kept / "in-the-way").unlink()
            kept.rmdir()
            aside.rename(kept)
        vip.description["listen"] = first
        await (await vip.opened("alice")).login("alice")
        await wait_until_async(lambda: not is_listening(port), 5, "what was opened for it is closed")
        await balancer.reload()
