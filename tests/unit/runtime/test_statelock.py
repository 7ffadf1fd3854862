"""One service at a time uses a state folder."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rdpbalancer.errors import ConfigurationError
from rdpbalancer.runtime.statelock import FILE_NAME, acquire

CONFIG = Path("/etc/rdpbalancer/rdpbalancer.yaml")
WALL = 1_700_000_000.0


def test_the_second_is_told_who_is_there(tmp_path: Path) -> None:
    """Process, configuration and time: what one needs to find it."""
    held = acquire(tmp_path, config=CONFIG, wall=WALL)
    with pytest.raises(ConfigurationError) as refused:
        acquire(tmp_path, config=Path("/root/trial.yaml"), wall=WALL + 1)
    os.close(held)
    assert "state-in-use" == refused.value.code
    assert (
        f"global.state_dir: {tmp_path} is in use by another rdpbalancer: process {os.getpid()}, running"
        f" {CONFIG} since 2023-11-14 22:13:20 UTC; stop that one first, or give this one a state_dir"
        " of its own"
    ) == str(refused.value)


def test_its_file_is_nobody_elses(tmp_path: Path) -> None:
    """It names a path."""
    os.close(acquire(tmp_path, config=CONFIG, wall=WALL))
    assert 0o600 == (tmp_path / FILE_NAME).stat().st_mode & 0o777


@pytest.mark.parametrize("content", [b"", b"{", b"[1, 2]", b"\xff" * 100_000, b'{"pid": "x"}'])
def test_a_holder_that_has_not_said_who_it_is(tmp_path: Path, content: bytes) -> None:
    """It was about to, or another program wrote there: refused all the same."""
    held = acquire(tmp_path, config=CONFIG, wall=WALL)
    (tmp_path / FILE_NAME).write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"is in use by another rdpbalancer; stop"):
        acquire(tmp_path, config=CONFIG, wall=WALL)
    os.close(held)


def test_a_full_disk_lets_no_second_service_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lock needs no room, only its holder's name does."""

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    held = acquire(tmp_path, config=CONFIG, wall=WALL)
    with pytest.raises(ConfigurationError, match="is in use by another rdpbalancer; stop"):
        acquire(tmp_path, config=CONFIG, wall=WALL)
    os.close(held)


def test_it_is_free_when_its_holder_has_died(tmp_path: Path) -> None:
    """However that was; what it has left in the file is another's word."""
    code = (
        "import os, sys; from pathlib import Path; from rdpbalancer.runtime.statelock import acquire;"
        "acquire(Path(sys.argv[1]), config=Path('/a/very/long/path' * 20), wall=0.0); os.kill(os.getpid(), 9)"
    )
    died = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert -9 == died.returncode
    os.close(acquire(tmp_path, config=CONFIG, wall=WALL))
    assert (
        b'{"pid":%d,"config":"%s","since":%s}\n'
        % (
            os.getpid(),
            str(CONFIG).encode(),
            str(WALL).encode(),
        )
        == (tmp_path / FILE_NAME).read_bytes()
    )


def test_a_copy_of_the_descriptor_keeps_it(tmp_path: Path) -> None:
    """As the next program at an upgrade has one."""
    held = acquire(tmp_path, config=CONFIG, wall=WALL)
    copy = os.dup(held)
    os.close(held)
    with pytest.raises(ConfigurationError):
        acquire(tmp_path, config=CONFIG, wall=WALL)
    os.close(copy)
    os.close(acquire(tmp_path, config=CONFIG, wall=WALL))


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    """An error of the operating system, for the caller to decide."""
    with pytest.raises(FileNotFoundError):
        acquire(tmp_path / "none", config=CONFIG, wall=WALL)
