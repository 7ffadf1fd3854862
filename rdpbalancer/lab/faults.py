"""Ways for a simulated server to fail, switchable while it runs."""

import asyncio
import socket
from collections.abc import Callable
from enum import StrEnum
from typing import Final

from rdpbalancer.lab.channel import READ_BYTES, LabChannel, LabError, Traffic

BYTE_PAUSE_S: Final = 0.001  # between the bytes of a confirm: enough for each to be a segment of its own


class LabFault(StrEnum):
    """What a server does wrong. The first group acts on the listening socket, the last on live sessions."""

    NONE = "none"
    REFUSE = "refuse"  # dials are refused; the port stays the server's own
    BLACKHOLE = "blackhole"  # dials succeed, nothing is ever accepted
    DIAL_HANGS = "dial-hangs"  # SYNs are dropped: dials neither succeed nor fail

    ACCEPT_THEN_CLOSE = "accept-then-close"  # FIN at once
    ACCEPT_THEN_RESET = "accept-then-reset"  # RST at once
    SILENT = "silent"  # reads, never answers
    SLOW_CONFIRM = "slow-confirm"  # answers after delay_s
    CONFIRM_BYTE_BY_BYTE = "confirm-byte-by-byte"  # delay_s between the bytes
    PARTIAL_CONFIRM_THEN_CLOSE = "partial-confirm-then-close"  # half of it, then FIN
    GARBAGE_REPLY = "garbage-reply"  # something that is no confirm, then FIN

    STOP_READING = "stop-reading"  # after the confirm, until the fault is taken back
    RESET_AFTER = "reset-after"  # RST after after_bytes, counted both ways
    HALF_CLOSE_AFTER = "half-close-after"  # FIN after after_bytes, counted both ways; then only reads


_AFTER_BYTES: Final = frozenset({LabFault.RESET_AFTER, LabFault.HALF_CLOSE_AFTER})


class FaultStruckError(LabError):
    """An injected fault ended the conversation: not an error of anybody's."""


class Faults:
    """The one fault that a server has at present."""

    def __init__(self, on_change: Callable[[LabFault], None]) -> None:
        self._on_change = on_change
        self._changed = asyncio.Event()
        self.kind = LabFault.NONE
        self.delay_s = BYTE_PAUSE_S
        self.after_bytes = 0
        self.generation = 0

    def inject(self, kind: LabFault | str, *, delay_s: float = BYTE_PAUSE_S, after_bytes: int = 0) -> None:
        """Fail from now on in the way of `kind`, in place of any fault before.

        `after_bytes` is counted from now in sessions that live, from the confirm in later ones, and in
        both directions together: 100 bytes echoed are 200. 0: at the next byte.
        """
        self.kind = LabFault(kind)
        self.delay_s = delay_s
        self.after_bytes = after_bytes
        self.generation += 1
        self._changed.set()
        self._changed = asyncio.Event()
        self._on_change(self.kind)

    def clear(self) -> None:
        """Behave well again. Sessions that stopped reading go on where they were."""
        self.inject(LabFault.NONE)

    async def change(self) -> None:
        """Wait until the fault is another."""
        await self._changed.wait()


class FaultyChannel(LabChannel):
    """A session's channel that suffers from the server's present fault."""

    def __init__(self, sock: socket.socket, traffic: Traffic, faults: Faults) -> None:
        super().__init__(sock, traffic)
        self._faults = faults
        self._exposed = False
        self._generation = 0
        self._moved_bytes = 0

    def expose(self) -> None:
        """Let the faults of live sessions act from here on (the confirm has been sent)."""
        self._exposed = True
        self._generation = self._faults.generation

    async def read(self, limit_bytes: int = READ_BYTES) -> bytes:
        """Return what is there; may wait, or raise FaultStruckError, as the fault demands."""
        while self._exposed and self._faults.kind is LabFault.STOP_READING:
            await self._faults.change()
        left_bytes = self._left_bytes()
        if left_bytes is not None:
            limit_bytes = min(limit_bytes, max(left_bytes, 1))
        data = await super().read(limit_bytes)
        self._moved(len(data))
        return data

    async def write(self, data: bytes) -> None:
        """Send `data`, or the part of it that the fault lets through."""
        left_bytes = self._left_bytes()
        if left_bytes is not None:
            data = data[:left_bytes]
        await super().write(data)
        self._moved(len(data))

    def _left_bytes(self) -> int | None:
        """Return how many bytes may still move before the fault strikes. None: none will."""
        faults = self._faults
        if not self._exposed or faults.kind not in _AFTER_BYTES:
            return None
        if self._generation != faults.generation:
            self._generation = faults.generation
            self._moved_bytes = 0
        return max(0, faults.after_bytes - self._moved_bytes)

    def _moved(self, size_bytes: int) -> None:
        left_bytes = self._left_bytes()
        if left_bytes is None:
            return
        self._moved_bytes += size_bytes
        if self._moved_bytes < self._faults.after_bytes:
            return
        if self._faults.kind is LabFault.RESET_AFTER:
            self.doom()
            raise FaultStruckError("reset", f"reset after {self._moved_bytes} bytes, as told")
        self.half_close()
        self._exposed = False  # what is left is reading, and no fault disturbs that
        raise FaultStruckError("closed", f"half-closed after {self._moved_bytes} bytes, as told")
