"""The main promise, with nothing simulated: users come back to the very desktop they left."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import StartBalancer
from tests.e2e.desktop import Desktop, Screen, TerminalServer, User, require_terminal_servers
from tests.e2e.forwarder import Forwarder
from tests.support.balancer import Balancer
from tests.support.processes import Processes, is_alive
from tests.support.programs import require
from tests.support.wait import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(120)]


@pytest.fixture
def programs() -> None:
    """Skip before anything is set up if a program is missing."""
    require_terminal_servers()
    for program in ("xfreerdp", "Xvfb", "xdotool", "import"):
        require(program)


@pytest.fixture
def servers(
    programs: None,  # noqa: ARG001 - asked for its order
    new_user: Callable[[str], User],  # noqa: ARG001 - users are removed after the servers have ended
    processes: Processes,
    tmp_path: Path,
) -> Iterator[dict[str, TerminalServer]]:
    """Two terminal servers that know nothing of each other."""
    started = {name: TerminalServer(name, tmp_path, processes) for name in ("ts1", "ts2")}
    yield started
    for server in started.values():
        server.stop()


def _farm(servers: dict[str, TerminalServer]) -> dict[str, object]:
    return {
        "name": "desktops",
        "mode": "rdp",
        # After Bob and Alice, the turn is Bob's server's: only persistence brings Alice back to hers.
        "scheduler": "weighted-round-robin",
        "persistence": {"methods": ["routing-token", "rdp-cookie", "source-ip"]},
        "health_check": {"type": "rdp", "interval": "2s", "timeout": "2s", "rise": 1, "fall": 3},
        "real_servers": [
            {"name": server.name, "address": str(server.endpoint)} for server in servers.values()
        ],
    }


def _session_of(balancer: Balancer, user: User) -> dict[str, object]:
    """Wait until the balancer shows exactly one live session of the user, and return it."""
    found = wait_until(
        lambda: [row for row in balancer.sessions() if row["user"] == user.name],
        10,
        lambda: f"a session of {user.name} among {balancer.sessions()}",
    )
    assert 1 == len(found)
    return found[0]


def _host_of(servers: dict[str, TerminalServer], desktop: Desktop) -> str:
    (display,) = desktop.displays
    (name,) = (server.name for server in servers.values() if server.has_display(display))
    return name


def test_users_return_to_the_desktop_they_left(
    servers: dict[str, TerminalServer],
    new_user: Callable[[str], User],
    balancer: StartBalancer,
    processes: Processes,
    tmp_path: Path,
) -> None:
    """A user who comes back from another address finds the same desktop and programs on the same server.

    The shell's variable and its job are the witnesses: they live in that one process and nowhere else.
    """
    bob, alice = new_user("bob"), new_user("alice")
    rdpbalancer = balancer([_farm(servers)])
    rdpbalancer.wait_usable(2)
    address = rdpbalancer.endpoint("desktops")

    # Bob is there already, and stays.
    bobs = Screen(tmp_path, processes).xfreerdp(address, user=bob)
    bobs_desktop = Desktop.wait(bob)
    bobs_session = _session_of(rdpbalancer, bob)

    # Alice logs in from 127.0.0.1, lands on the other server, and starts work.
    screen = Screen(tmp_path, processes)
    first = screen.xfreerdp(address, user=alice)
    left = Desktop.wait(alice)
    first_session = _session_of(rdpbalancer, alice)
    job = alice.home / "job"
    screen.run("WORK=half-done; sleep 4321 & echo $! > ~/job", shows=lambda: job.exists() and job.read_text())
    (working,) = alice.pids("sleep")

    # Alice's client goes away; her desktop stays.
    first.stop()
    wait_until(
        lambda: alice.name not in [row["user"] for row in rdpbalancer.sessions()],
        10,
        "the end of Alice's session",
    )
    assert left == Desktop(alice)

    # She comes back from 127.0.0.2.
    with Forwarder(address, source="127.0.0.2") as elsewhere:
        back = screen.xfreerdp(elsewhere.endpoint, user=alice)
        second_session = _session_of(rdpbalancer, alice)
        work = alice.home / "work"
        screen.run("echo $WORK > ~/work", shows=lambda: work.exists() and work.read_text())
        found = Desktop(alice)
        back.stop()
    bobs.stop()

    assert "half-done\n" == work.read_text(), "another shell than the one she left"
    assert left == found, "another desktop than the one she left"
    assert is_alive(working), "what she had started was ended"
    assert 1 == servers[_host_of(servers, left)].log().count("reconnected session: username " + alice.name)

    assert ("scheduled", "rdp-cookie") == (first_session["reason"], first_session["method"])
    assert ("cookie", "rdp-cookie") == (second_session["reason"], second_session["method"])
    assert str(first_session["client"]).startswith("127.0.0.1:")
    assert str(second_session["client"]).startswith("127.0.0.2:")
    assert _host_of(servers, left) == first_session["server"] == second_session["server"]
    assert _host_of(servers, bobs_desktop) == bobs_session["server"]
    assert first_session["server"] != bobs_session["server"]
