"""rdesktop beside xfreerdp: another real client, the same users, and what either does with a refusal."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rdpbalancer.model import Endpoint
from tests.e2e.conftest import StartBalancer
from tests.e2e.desktop import Desktop, Screen, TerminalServer, User, require_terminal_servers
from tests.e2e.forwarder import Forwarder
from tests.support.processes import Processes, RealProcess, free_port
from tests.support.programs import require
from tests.support.wait import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(90)]

StartClient = Callable[[Screen, Endpoint], RealProcess]


@pytest.fixture
def screen(processes: Processes, tmp_path: Path) -> Screen:
    """A screen for the clients; the test is skipped if one of them is missing."""
    for program in ("rdesktop", "xfreerdp", "Xvfb", "import"):
        require(program)
    return Screen(tmp_path, processes)


@pytest.fixture
def servers(
    screen: Screen,  # noqa: ARG001 - asked for its order
    new_user: Callable[[str], User],  # noqa: ARG001 - users are removed after the servers have ended
    processes: Processes,
    tmp_path: Path,
) -> Iterator[list[TerminalServer]]:
    """Two real terminal servers."""
    require_terminal_servers()
    started = [TerminalServer(name, tmp_path, processes) for name in ("ts1", "ts2")]
    yield started
    for server in started:
        server.stop()


def _farm(addresses: dict[str, Endpoint], **options: Any) -> dict[str, Any]:
    return {
        "name": "farm",
        "mode": "rdp",
        # A round robin brings whoever is not recognised to the other server.
        "scheduler": "weighted-round-robin",
        "persistence": {"methods": ["rdp-cookie"]},
        "real_servers": [{"name": name, "address": str(address)} for name, address in addresses.items()],
        **options,
    }


def test_two_programs_find_one_desktop(
    servers: list[TerminalServer],
    screen: Screen,
    new_user: Callable[[str], User],
    balancer: StartBalancer,
) -> None:
    """Who left with rdesktop comes back with xfreerdp, to the same desktop: both send the same cookie."""
    dave = new_user("dave")
    started = balancer([_farm({server.name: server.endpoint for server in servers})])
    started.wait_usable(2)
    address = started.endpoint("farm")

    rdesktop = screen.rdesktop(address, "-u", dave.name, "-p", dave.password, "-g", "800x600", "-a", "32")
    left = Desktop.wait(dave)
    rdesktop.stop()
    wait_until(lambda: len(started.records()) == 1, 10, "the record of rdesktop's session")
    xfreerdp = screen.xfreerdp(address, user=dave)
    wait_until(
        lambda: any("reconnected session" in server.log() for server in servers), 20, xfreerdp.describe
    )
    found = Desktop(dave)
    xfreerdp.stop()
    wait_until(lambda: len(started.records()) == 2, 10, "the record of xfreerdp's session")

    assert left == found
    first, second = started.records()
    assert (dave.name, "rdp-cookie", "scheduled") == (first["user"], first["method"], first["reason"])
    assert (dave.name, "rdp-cookie", "cookie") == (second["user"], second["method"], second["reason"])
    assert first["server"] == second["server"]
    # Both asked for TLS and NLA; xrdp has TLS.
    assert (3, 1) == (first["requested_protocols"], first["selected_protocol"])


@pytest.mark.parametrize(
    ("start", "complaint"),
    [
        pytest.param(
            lambda screen, to: screen.rdesktop(to, "-u", "erin"),
            "expected ISO_PDU_CC, got 0x80",
            id="rdesktop",
        ),
        pytest.param(
            lambda screen, to: screen.xfreerdp(to, "/u:erin", "/p:secret"),
            "expected X224_TPDU_CONNECTION_CONFIRM",
            id="xfreerdp",
        ),
    ],
)
def test_a_refused_client_tries_once(
    start: StartClient, complaint: str, screen: Screen, balancer: StartBalancer
) -> None:
    """With no usable server the client gets a Disconnect Request, and does not try again and again."""
    nobody = Endpoint("127.0.0.1", free_port())
    timeouts = {"queue": "1s", "connect": "1s"}
    started = balancer([_farm({"ts1": nobody}, timeouts=timeouts)])
    down = lambda: [row["health"] for row in started.cli("show", "servers", "--json")] == ["down"]  # noqa: E731
    wait_until(down, 15, "the server's health to be down")
    with Forwarder(started.endpoint("farm")) as front:
        client = start(screen, front.endpoint)
        status = client.wait(20)
        assert 1 == front.connections
    assert 0 != status
    assert complaint in client.output()
