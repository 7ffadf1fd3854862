"""Ways for a simulated server to fail, switchable while it runs."""

import asyncio
from collections.abc import Callable
from enum import StrEnum
from typing import Final

from rdpbalancer.lab.channel import Channel, LabError

BYTE_PAUSE_S: Final = 0.001  # between the bytes of a confirm: enough for each to be a segment of its own


class Fault(StrEnum):
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


class FaultStruckError(LabError):
    """An injected fault ended the conversation: not an error of anybody's."""


class Faults:
    """The one fault that a server has at present."""

    def __init__(self, on_change: Callable[[Fault], None]) -> None:
        self._on_change = on_change
        self._changed = asyncio.Event()
        self.kind = Fault.NONE
        self.delay_s = BYTE_PAUSE_S
        self.after_bytes = 0
        self.generation = 0

    def inject(
        self, kind: Fault | str, *, delay_s: float = BYTE_PAUSE_S, after_bytes: int | None = None
    ) -> None:
        """Fail from now on in the way of `kind`, in place of any fault before.

        `after_bytes` is counted from now in sessions that live, from the confirm in later ones, and in
        both directions together: 100 bytes echoed are 200. Default 0: at the next byte.
        """
        self.kind = Fault(kind)
        self.delay_s = delay_s
        self.after_bytes = after_bytes or 0
        self.generation += 1
        self._changed.set()
        self._changed = asyncio.Event()
        self._on_change(self.kind)

    def clear(self) -> None:
        """Behave well again. Sessions that stopped reading go on where they were."""
        self.inject(Fault.NONE)

    async def change(self) -> None:
        """Wait until the fault is another."""
        await self._changed.wait()


class FaultyChannel(Channel):
    """A session's channel that suffers from the server's present fault."""

    _faults: Faults
    _generation = 0
    _moved_bytes = 0

    @classmethod
    def of(cls, channel: Channel, faults: Faults) -> "FaultyChannel":
        """Take `channel` over, unread bytes included; the given one is not to be used any more."""
        faulty = cls(channel._sock, channel.traffic)  # noqa: SLF001 - of the same family
        faulty._unread = channel._unread  # noqa: SLF001
        faulty._faults = faults
        faulty._generation = faults.generation
        return faulty

    async def read(self, limit_bytes: int = READ_BYTES) -> bytes:
        while self._faults.kind is Fault.STOP_READING:
            await self._faults.change()
        left = self._left_bytes()
        data = await super().read(limit_bytes if left is None else min(limit_bytes, max(left, 1)))
        self._moved(len(data))
        return data

    async def write(self, data: bytes) -> None:
        left = self._left_bytes()
        if left is None or len(data) <= left:
            await super().write(data)
            return self._moved(len(data))
