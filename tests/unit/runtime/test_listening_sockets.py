"""Which listeners a configuration wants, and keeping them open over reloads."""

import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from rdpbalancer.errors import ConfigurationError
from rdpbalancer.runtime.listeners import Listeners, wanted_listeners
from rdpbalancer.settings.load import loads

MODE = 0o660


def wanted(head: str = "") -> dict[str, str]:
    """Return what a configuration of two services wants."""
    return wanted_listeners(
        loads(
            f"global: {{runtime_dir: /run/here{head}}}\n"
            "virtual_services:\n"
            "  - name: ts\n    listen: ['127.0.0.1:3389', '[::1]:3389']\n"
            "    real_servers: [{name: ts1, address: '192.0.2.10:3389'}]\n"
            "  - name: gw\n    mode: tcp\n    listen: '127.0.0.1:443'\n"
            "    real_servers: [{name: gw1, address: '192.0.2.11:443'}]\n"
        )
    )


def test_every_listener_has_its_name() -> None:
    """Service and address; metrics and the control socket beside them."""
    assert {
        "control": "/run/here/control.sock",
        "metrics 127.0.0.1:9389": "127.0.0.1:9389",
        "ts 127.0.0.1:3389": "127.0.0.1:3389",
        "ts [::1]:3389": "[::1]:3389",
        "gw 127.0.0.1:443": "127.0.0.1:443",
    } == wanted()


def test_metrics_can_be_elsewhere_or_nowhere() -> None:
    """Its name says where, so that a reload can move it."""
    assert "metrics 127.0.0.2:99" in wanted(", metrics: {listen: '127.0.0.2:99'}")
    assert [] == [name for name in wanted(", metrics: {listen: null}") if name.startswith("metrics")]


@pytest.fixture
def listeners() -> Iterator[Listeners]:
    """Return open listeners; closed at the end."""
    made = Listeners()
    yield made
    made.close_all()


def names(listeners: Listeners) -> list[str]:
    """Return the names of what is open."""
    return [name for name, _, _ in listeners]


def port(listeners: Listeners, name: str) -> int:
    """Return the port that a listener has."""
    number: int = listeners.sock(name).getsockname()[1]
    return number


def test_what_is_open_stays_open(listeners: Listeners, tmp_path: Path) -> None:
    """A reload opens what is missing and closes what is not wanted; the rest takes no notice."""
    control = str(tmp_path / "control.sock")
    first = {"control": control, "ts 127.0.0.1:0": "127.0.0.1:0", "gw 127.0.0.1:0": "127.0.0.1:0"}
    assert list(first) == listeners.open_missing(first, control_mode=MODE)
    before = port(listeners, "ts 127.0.0.1:0")
    assert before != port(listeners, "gw 127.0.0.1:0")
    second = {"control": control, "ts 127.0.0.1:0": "127.0.0.1:0", "new [::1]:0": "[::1]:0"}
    assert ["new [::1]:0"] == listeners.open_missing(second, control_mode=MODE)
    assert ["127.0.0.1:0"] == listeners.close_others(second)
    assert before == port(listeners, "ts 127.0.0.1:0")
    assert sorted(second) == sorted(names(listeners))
    with socket.create_connection(("127.0.0.1", before), timeout=5):
        pass


def test_all_or_none(listeners: Listeners) -> None:
    """A port that is taken leaves everything as it was, and says which."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ConfigurationError, match=address):
            listeners.open_missing({"ts": "127.0.0.1:0", "gw": address}, control_mode=MODE)
    assert [] == names(listeners)
    assert ["gw"] == listeners.open_missing({"gw": address}, control_mode=MODE)


def test_an_address_may_go_from_one_service_to_another(listeners: Listeners) -> None:
    """In one reload, without refusing a connection in between."""
    listeners.open_missing({"old": "127.0.0.1:0"}, control_mode=MODE)
    address = f"127.0.0.1:{port(listeners, 'old')}"
    fresh = Listeners()
    fresh.inherit("old", address, listeners.sock("old").dup())
    with socket.create_connection(("127.0.0.1", port(listeners, "old")), timeout=5) as waiting:
        assert ["new"] == fresh.open_missing({"new": address}, control_mode=MODE)
        assert [address] == fresh.close_others({"new": address})
        accepted, peer = fresh.sock("new").accept()
        assert waiting.getsockname() == peer
        accepted.close()
    fresh.close_all()


def test_a_unix_sockets_file_goes_with_it(listeners: Listeners, tmp_path: Path) -> None:
    """With the configured rights while it is there."""
    path = tmp_path / "control.sock"
    listeners.open_missing({"control": str(path)}, control_mode=MODE)
    assert MODE == stat.S_IMODE(path.stat().st_mode)
    listeners.close_all()
    assert not path.exists()
    assert [] == names(listeners)


def test_sockets_of_the_service_manager_are_used_where_they_fit(listeners: Listeners) -> None:
    """By their address; what nobody wants is closed, what is open already stays."""
    passed = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
    addresses = [f"127.0.0.1:{sock.getsockname()[1]}" for sock in passed]
    listeners.inherit("have", addresses[1], passed[1].dup())
    wanted_now = {"ts": addresses[0], "have": addresses[1], "gw": "127.0.0.1:0"}
    listeners.activate(wanted_now, zip(addresses, passed, strict=True))
    assert ["have", "ts"] == sorted(names(listeners))
    assert [-1, -1, -1] == [sock.fileno() for sock in passed]
    assert addresses[0].endswith(f":{port(listeners, 'ts')}")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", int(addresses[2].rpartition(":")[2])), timeout=5)
