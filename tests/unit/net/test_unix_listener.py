"""The control socket's file: its mode, stale ones, and another service's."""

import socket
from pathlib import Path

import pytest

from rdpbalancer.errors import ConfigurationError
from rdpbalancer.net import listen


def test_the_mode_is_right_from_the_beginning(tmp_path: Path) -> None:
    """The file appears under its name with the mode that was asked for, and nothing else is left."""
    sock = listen.unix(tmp_path / "c.sock", mode=0o600)
    assert 0o600 == (tmp_path / "c.sock").stat().st_mode & 0o777
    assert ["c.sock"] == [path.name for path in tmp_path.iterdir()]
    sock.close()


def test_a_stale_file_is_replaced(tmp_path: Path) -> None:
    """What a killed service left behind is no obstacle."""
    listen.unix(tmp_path / "c.sock", mode=0o600).close()
    sock = listen.unix(tmp_path / "c.sock", mode=0o660)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / "c.sock"))
    sock.close()


def test_another_service_is_not_disturbed(tmp_path: Path) -> None:
    """Who answers there keeps the socket."""
    first = listen.unix(tmp_path / "c.sock", mode=0o600)
    with pytest.raises(ConfigurationError, match="runs already"):
        listen.unix(tmp_path / "c.sock", mode=0o600)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / "c.sock"))
    first.close()


def test_a_file_that_is_no_socket_is_not_removed(tmp_path: Path) -> None:
    """An operator's mistake in the path destroys nothing."""
    (tmp_path / "c.sock").write_text("precious")
    with pytest.raises(ConfigurationError):
        listen.unix(tmp_path / "c.sock", mode=0o600)
    assert "precious" == (tmp_path / "c.sock").read_text()


def test_a_missing_folder(tmp_path: Path) -> None:
    """It is named."""
    with pytest.raises(ConfigurationError, match="folder does not exist"):
        listen.unix(tmp_path / "none" / "c.sock", mode=0o600)
