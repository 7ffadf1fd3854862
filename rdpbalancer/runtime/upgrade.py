"""Upgrading: what the supervisor takes along when it becomes the newly installed code, and the way back.

The process stays, and with it its id, the listening sockets, the relays and the lines to them; only the
program changes (execve(2)). Before that the new code has to show that it starts and understands all this.
It also takes along the program before it, and becomes that one again if its router does not work.
"""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from rdpbalancer import __version__
from rdpbalancer.errors import ChannelError
from rdpbalancer.ipc.relay_messages import PROTOCOL_VERSION as RELAY_PROTOCOL
from rdpbalancer.runtime.children import reason
from rdpbalancer.runtime.program import Program
from rdpbalancer.telemetry import logs

STATE_VERSION = 1
_ENVIRONMENT = "RDPBALANCER_INHERITED"
# Starting Python, importing everything and reading the configuration; a busy machine is given time.
_PREFLIGHT_S = 60.0
# Not to be lost, or deadly, while there is no handler: between the old program and the new one.
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)


class ListenerState(msgspec.Struct):
    """An open listening socket."""

    name: str
    address: str
    descriptor: int


class RelayState(msgspec.Struct):
    """A relay process: our line to it, and the router's line, which we keep for the next router.

    `code`: the mark of the code that it runs. `retired`: it has been told to take no more sessions.
    """

    pid: int
    number: int
    line: int
    router_end: int
    code: str = ""
    retired: bool = False


class Reverted(msgspec.Struct):
    """An upgrade that has been taken back: the version that was left again, why, and when (Unix time)."""

    version: str
    detail: str
    at: float


class Inherited(msgspec.Struct):
    """What one program leaves to the next, or to the one before it.

    `generation`: programs since the service was started; `kept`: the file of the configuration in use;
    `before`: the program to go back to, None: there is none; `reverted`: this is the way back; `state_lock`:
    the descriptor of the lock on the state folder, None: there is none. Fields are only ever added, at the
    end and with a default: older code ignores what it does not know.
    """

    generation: int
    kept: str
    listeners: list[ListenerState]
    relays: list[RelayState]
    drain_s: float
    version: int = STATE_VERSION
    before: Program | None = None
    reverted: Reverted | None = None
    state_lock: int | None = None


class Abilities(msgspec.Struct):
    """What a program can take over; printed by its preflight."""

    version: str
    state_versions: list[int]
    relay_protocols: list[int]


def abilities() -> Abilities:
    """Return what this code can take over."""
    return Abilities(__version__, [STATE_VERSION], [RELAY_PROTOCOL])


async def preflight(program: Program, kept: Path, path: Path, *, rehearse: bool = True) -> str:
    """Let a program show that it can take over; return what speaks against it, or nothing.

    `rehearse`: its processes also run for a moment, on a copy of the state; without it they are only loaded.
    """
    role = "preflight" if rehearse else "abilities"
    command = [*program.command("rdpbalancer.runtime.child"), role, str(kept), str(path)]
    try:
        done = await asyncio.to_thread(_run, command, program)
    except subprocess.TimeoutExpired:
        return f"the code does not start: its trial start took more than {_PREFLIGHT_S:.0f} s"
    except OSError as error:
        return f"the code does not start: {error}"
    if done.returncode:
        said = reason(done.stderr.decode(errors="replace").splitlines())
        return f"the code does not start: {said or 'it said nothing'}"
    try:
        able = msgspec.json.decode(done.stdout, type=Abilities)
    except msgspec.MsgspecError as error:
        return f"the code does not say what it can take over: {error}"
    if STATE_VERSION not in able.state_versions:
        return f"version {able.version} cannot take over state {STATE_VERSION}: restart the service instead"
    if RELAY_PROTOCOL not in able.relay_protocols:
        return f"version {able.version} does not speak to relays of version {__version__}: restart instead"
    return ""


def _run(command: Sequence[str], program: Program) -> subprocess.CompletedProcess[bytes]:
    # The thread outlives this call in its pool. With signals blocked in the main thread alone, one that comes
    # just before the exec would be delivered to it, and end with the old program.
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    return subprocess.run(  # noqa: S603 (our own program, no shell)
        command,
        capture_output=True,
        check=False,
        stdin=subprocess.DEVNULL,
        timeout=_PREFLIGHT_S,
        env=program.environ(),
        pass_fds=program.descriptors,
    )


def hold_signals() -> None:
    """Let signals wait in the kernel from now on; those that have come already are still the loop's."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)


def become(
    program: Program, inherited: Inherited, path: Path, *, then: Iterable[signal.Signals] = ()
) -> None:
    """Become another program, in this very process. Returns only by an OSError.

    `then`: signals that it is to get as soon as it listens to signals.
    """
    descriptors = [listener.descriptor for listener in inherited.listeners] + program.descriptors
    if inherited.state_lock is not None:
        descriptors.append(inherited.state_lock)
    if inherited.before is not None:
        descriptors += inherited.before.descriptors
    for relay in inherited.relays:
        descriptors += [relay.line, relay.router_end]
    memory: int | None = None
    try:
        memory = os.memfd_create("rdpbalancer-inherited", 0)  # 0: it stays open over exec
        os.write(memory, msgspec.json.encode(inherited))
        os.lseek(memory, 0, os.SEEK_SET)
        for descriptor in descriptors:
            os.set_inheritable(descriptor, True)
        for number in then:
            os.kill(os.getpid(), number)  # blocked, and so kept by the kernel until the new code lets it in
        logs.flush()
        sys.stdout.flush()
        sys.stderr.flush()
        environ = {**program.environ(), _ENVIRONMENT: str(memory)}
        os.execve(  # noqa: S606 (our own program, no shell)
            program.executable, [*program.command("rdpbalancer"), "run", "-c", str(path)], environ
        )
    finally:  # only after an error
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        if memory is not None:
            os.close(memory)
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)


def go_back(before: Program, inherited: Inherited, path: Path, why: str) -> None:
    """Leave what was inherited to the program before: the supervisor of this one does not start.

    Returns only by an OSError.
    """
    left = msgspec.structs.replace(
        inherited,
        generation=inherited.generation + 1,
        before=None,
        reverted=Reverted(__version__, f"its supervisor did not start: {why}", time.time()),
    )
    hold_signals()
    become(before, left, path)


def inherited_state() -> Inherited | None:
    """Return what the program before this one left, None: there was none. Raises ChannelError."""
    number = os.environ.pop(_ENVIRONMENT, "")
    if not number:
        return None
    with os.fdopen(int(number), "rb") as memory:
        data = memory.read()
    version = json.loads(data).get("version")
    if version != STATE_VERSION:
        raise ChannelError("inherited", f"the state left is of version {version}, not {STATE_VERSION}")
    return msgspec.json.decode(data, type=Inherited)


def signals_may_come() -> None:
    """Let signals in again: their handlers are in place."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)


def taken_over(descriptor: int) -> socket.socket:
    """Return an inherited descriptor as a socket, closed on the next exec unless it is left again."""
    os.set_inheritable(descriptor, False)
    sock = socket.socket(fileno=descriptor)
    sock.setblocking(False)
    return sock
