"""The lock on the state folder: of all services of a machine, one uses it.

Two routers that write one state file would each forget what the other has learned. The lock is the
supervisor's, taken along at an upgrade, and gone with its process however that ends (flock(2)).
"""

import contextlib
import fcntl
import os
import time
from pathlib import Path

import msgspec

from rdpbalancer.errors import ConfigurationError
from rdpbalancer.runtime.running_config import RunningConfig
from rdpbalancer.telemetry.events import Events

FILE_NAME = "rdpbalancer.lock"
# What its holder says of itself, and no more of a file that somebody else has put there.
_MAX_BYTES = 4096


class Holder(msgspec.Struct):
    """Who holds the lock: the supervisor's process, its configuration, and since when (Unix time)."""

    pid: int
    config: str
    since: float


class StateLock:
    """The lock that this service holds, or not."""

    def __init__(self, events: Events) -> None:
        self._events = events
        self.descriptor: int | None = None

    def acquire(self, running: RunningConfig) -> None:
        """Keep other services off the state folder. Raises ConfigurationError: one is using it."""
        state_dir = running.settings.global_.state_dir
        try:
            self.descriptor = acquire(state_dir, config=running.path, wall=time.time())
        except OSError as error:
            detail = f"{state_dir} cannot be locked ({error}): see to it that no second service uses it"
            self._events.warning("state_not_locked", detail=detail)

    def take_over(self, descriptor: int) -> None:
        """Go on with the lock of the program before."""
        os.set_inheritable(descriptor, False)
        self.descriptor = descriptor

    def release(self) -> None:
        """Let another service use the folder."""
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None


def acquire(state_dir: Path, *, config: Path, wall: float) -> int:
    """Lock `state_dir` and return the descriptor that holds the lock as long as it is open.

    Raises:
        ConfigurationError: another service holds it.
        OSError: there can be no lock, by the folder's rights or its file system.
    """
    descriptor = os.open(state_dir / FILE_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            message = f"global.state_dir: {state_dir} is in use by {_described(descriptor)}"
            advice = "stop that one first, or give this one a state_dir of its own"
            raise ConfigurationError("state-in-use", f"{message}; {advice}") from None
        with contextlib.suppress(OSError):  # a full disk keeps us from saying who we are, not from the lock
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, msgspec.json.encode(Holder(os.getpid(), str(config), wall)) + b"\n", 0)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _described(descriptor: int) -> str:
    """Say who holds the lock, as far as it has said so."""
    try:
        holder = msgspec.json.decode(os.pread(descriptor, _MAX_BYTES, 0), type=Holder)
    except (OSError, msgspec.MsgspecError):
        return "another rdpbalancer"
    since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(holder.since))
    return f"another rdpbalancer: process {holder.pid}, running {holder.config} since {since}"
