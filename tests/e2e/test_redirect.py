"""Server redirection with a real client: the routing token that a terminal server hands out finds its way."""

import asyncio
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from rdpbalancer.lab.desktops import Broker
from rdpbalancer.lab.server import LabServer
from tests.e2e.conftest import StartBalancer
from tests.e2e.desktop import Screen
from tests.e2e.forwarder import Forwarder
from tests.support.balancer import Balancer
from tests.support.processes import Processes
from tests.support.programs import require
from tests.support.wait import wait_until_async

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(60)]

_USER = "carol"


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A certificate and its key, for clients that ask for TLS."""
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = [require("openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    names = ["-subj", "/CN=ts.example.test", "-out", str(certificate), "-keyout", str(key)]
    subprocess.run([*command, *names], check=True, capture_output=True, timeout=30)
    return certificate, key


@pytest.fixture(params=["rdp", "tls"])
async def servers(
    request: pytest.FixtureRequest, certificate: tuple[Path, Path]
) -> AsyncIterator[tuple[LabServer, LabServer]]:
    """Two terminal servers with one broker, which knows that the user's desktop is on the second."""
    broker = Broker()
    path, key = certificate
    made = [
        LabServer(
            name=name, security=request.param, behaviour="broker", broker=broker, certificate=path, key=key
        )
        for name in ("ts1", "ts2")
    ]
    async with made[0] as first, made[1] as second:
        broker.assign(_USER, second.home)
        yield first, second


def _farm(servers: tuple[LabServer, LabServer]) -> dict[str, Any]:
    """A farm whose first server gets every user that nobody knows."""
    return {
        "name": "farm",
        "mode": "rdp",
        "scheduler": "first-available",
        "persistence": {"methods": ["routing-token", "rdp-cookie"]},
        "real_servers": [{"name": server.name, "address": str(server.endpoint)} for server in servers],
    }


async def _token_session(balancer: Balancer) -> dict[str, Any]:
    """Wait for the session that a token has placed."""

    async def placed() -> list[dict[str, Any]]:
        rows = await asyncio.to_thread(balancer.sessions)
        return [row for row in rows if row["reason"] == "token"]

    found: list[dict[str, Any]] = await wait_until_async(placed, 20, "a session placed by a routing token")
    assert 1 == len(found)
    return found[0]


async def test_a_redirected_client_arrives_through_the_balancer(
    servers: tuple[LabServer, LabServer], balancer: StartBalancer, processes: Processes, tmp_path: Path
) -> None:
    """The wrong server redirects xfreerdp, and the token it comes back with leads to the server it names."""
    wrong, right = servers
    require("xfreerdp")
    require("Xvfb")
    started = await asyncio.to_thread(balancer, [_farm(servers)])
    await asyncio.to_thread(started.wait_usable, 2)
    screen = await asyncio.to_thread(Screen, tmp_path, processes)
    with Forwarder(started.endpoint("farm")) as front:
        client = screen.xfreerdp(front.endpoint, f"/u:{_USER}", "/p:secret", f"/sec:{wrong.security}")
        session = await _token_session(started)
        await wait_until_async(lambda: right.counters.logins == 1, 10, client.describe)
        connections = front.connections
        await asyncio.to_thread(client.stop)

    assert ("ts2", "token") == (session["server"], session["reason"])
    assert 2 == connections, "once to the wrong server, once to the right one, both to the balancer's address"
    assert (1, 1, 0) == (wrong.counters.requests, wrong.counters.redirects, wrong.counters.logins)
    assert (1, 1, 1) == (right.counters.requests, right.counters.tokens, right.counters.logins)
    assert None is right.requests[-1].request.cookie, "the client names no user beside its token"
    await wait_until_async(lambda: len(started.records()) == 2, 10, "two session records")
    told = [(record["server"], record["reason"], record["user"]) for record in started.records()]
    assert [("ts1", "scheduled", _USER), ("ts2", "token", None)] == told
