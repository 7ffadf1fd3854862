"""The configuration in use, kept for the next router."""

import os
import stat
from pathlib import Path

import pytest

from rdpbalancer.errors import ConfigurationError
from rdpbalancer.runtime import running_config
from rdpbalancer.runtime.running_config import FILE_NAME, RunningConfig


def write(path: Path, runtime_dir: Path, *, relays: str = "2", server: str = "ts1") -> None:
    """Write the operator's file."""
    path.write_text(
        f"global: {{runtime_dir: {runtime_dir}, relays: {relays}}}\n"
        "virtual_services:\n"
        "  - name: ts\n    listen: '127.0.0.1:0'\n"
        f"    real_servers: [{{name: {server}, address: '${{HOST:-192.0.2.10}}:3389'}}]\n"
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return the operator's file."""
    file = tmp_path / "rdpbalancer.yaml"
    write(file, tmp_path)
    return file


def servers(given: RunningConfig) -> list[str]:
    """Return the servers' addresses."""
    return [
        f"{server.name} {server.address}"
        for service in given.settings.virtual_services
        for server in service.real_servers
    ]


def test_what_is_kept_is_what_was_read(path: Path, tmp_path: Path) -> None:
    """Whatever the operator's file and the environment say by then."""
    file = running_config.keep(running_config.read(path, environ={"HOST": "192.0.2.20"}))
    assert tmp_path / FILE_NAME == file
    path.write_text("half an edi")
    again = running_config.kept(file, path, environ={})
    assert ["ts1 192.0.2.20:3389"] == servers(again)
    assert path == again.path
    assert ["ts1 192.0.2.20:3389"] == servers(
        running_config.kept(running_config.keep(again), path, environ={})
    )


def test_it_is_nobody_elses(path: Path, tmp_path: Path) -> None:
    """Values of `${file:...}` are worked in; and no half-written file is ever found there."""
    file = running_config.keep(running_config.read(path, environ={}))
    inode = file.stat().st_ino
    running_config.keep(running_config.read(path, environ={}))
    assert 0o600 == stat.S_IMODE(file.stat().st_mode)
    assert inode != file.stat().st_ino
    assert {FILE_NAME, path.name} == {entry.name for entry in tmp_path.iterdir()}


@pytest.mark.parametrize(
    "content",
    [None, b"", b"{", b"[]", b'{"unknown": 1}', b"\xff\xfe\x00", b"\x00" * 100, "folder"],
    ids=["missing", "empty", "cut-short", "a-list", "another-version", "not-text", "zeros", "a-folder"],
)
def test_a_damaged_file_is_no_reason_not_to_start(
    path: Path, tmp_path: Path, content: bytes | str | None
) -> None:
    """The operator's file is read instead."""
    file = tmp_path / FILE_NAME
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content == "folder":
        file.mkdir()
    assert ["ts1 192.0.2.30:3389"] == servers(running_config.kept(file, path, environ={"HOST": "192.0.2.30"}))


def test_if_both_are_damaged_the_operators_file_is_what_is_told(path: Path, tmp_path: Path) -> None:
    """That is the one that can be corrected."""
    path.write_text("half an edi")
    with pytest.raises(ConfigurationError, match=r"rdpbalancer\.yaml:1:1"):
        running_config.kept(tmp_path / FILE_NAME, path, environ={})


@pytest.mark.parametrize(("relays", "expected"), [("3", 3), ("0", 0), ("auto", len(os.sched_getaffinity(0)))])
def test_how_many_relays(path: Path, tmp_path: Path, relays: str, expected: int) -> None:
    """`auto` is one for each processor that this service may use."""
    write(path, tmp_path, relays=relays)
    assert expected == running_config.relay_count(running_config.read(path, environ={}).settings)
