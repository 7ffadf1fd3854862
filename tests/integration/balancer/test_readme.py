"""The configuration that the README shows, run as it stands there but for the addresses."""

import asyncio
import re
from collections import Counter
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from rdpbalancer.lab.client import LabClient, Landing
from rdpbalancer.lab.population import by_cookie, user_names
from tests.support.balancer import Balancer
from tests.support.running_balancer import labs

README = Path(__file__).parents[3] / "README.md"


def farm_of_the_readme() -> list[dict[str, Any]]:
    """Return the virtual services of the README's first example."""
    block = re.search(r"```yaml\n(.*?)```", README.read_text(), re.DOTALL)
    assert block is not None
    services: list[dict[str, Any]] = YAML(typ="safe").load(block[1])["virtual_services"]
    return services


async def everybody_comes(balancer: Balancer, users: list[str], *, source: str) -> dict[str, Landing]:
    """Have all users there at once, from one address; return where each landed, when all have left."""
    there = {}
    landings = {}
    for user in users:
        endpoint = balancer.endpoint("ts-cluster")
        there[user] = LabClient(endpoint, by_cookie(user), source=source, timeout_s=20)
        await there[user].open()
        landings[user] = await there[user].login(user)
    for client in there.values():
        await client.leave()
    return landings


async def test_the_readmes_farm_brings_users_back_to_their_desktops(tmp_path: Path) -> None:
    """Users are spread by its weights, and come back to their desktops from other addresses."""
    services = farm_of_the_readme()
    servers = services[0]["real_servers"]
    assert ["ts1", "ts2", "ts3"] == [server["name"] for server in servers]
    async with labs(len(servers)) as machines:
        for server, machine in zip(servers, machines, strict=True):
            server["address"] = str(machine.endpoint)
        del services[0]["listen"]  # a free port instead of 0.0.0.0:3389
        balancer = Balancer(tmp_path, services)
        await asyncio.to_thread(balancer.start)
        try:
            await asyncio.to_thread(balancer.wait_usable, len(servers))
            users = user_names(30)
            first = await everybody_comes(balancer, users, source="127.0.0.2")
            second = await everybody_comes(balancer, users, source="127.0.0.3")
        finally:
            assert 0 == await asyncio.to_thread(balancer.stop)
    # Weights 100, 100 and 50.
    assert {"ts1": 12, "ts2": 12, "ts3": 6} == Counter(landing.server for landing in first.values())
    assert all(landing.returned for landing in second.values())
    assert {user: landing.desktop for user, landing in first.items()} == {
        user: landing.desktop for user, landing in second.items()
    }
