"""Where a router's state outlives it: the seam behind the memory, which alone decides.

The loop's thread changes memory and notes what has changed; a backend writes that behind its back, and gives
back at a start what it has. tests/contract/test_backend.py holds for every implementation.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from rdpbalancer.model import Key
from rdpbalancer.stores.records import BindingRecord, Changes


class Backend(Protocol):
    """Implemented by `stores.sqlite_backend.SqliteBackend` and by `NullBackend`."""

    # Whether it keeps anything.
    durable: bool
    # Where what was damaged has been moved to, None: nothing was.
    recovered_from: Path | None
    # Whether it has lost what it had, and wants all of it again. The owner sets it back.
    begun_afresh: bool

    def find(self, service: str, key: Key) -> BindingRecord | None:
        """Return one binding, or None. For the loop's thread: it may not wait. Raises StoreError."""
        ...

    def bindings(self, service: str, *, wall: float, size: int) -> Iterator[list[BindingRecord]]:
        """Yield a service's bindings that live at `wall` (Unix time), `size` at a time.

        Each step may block: for a worker thread, all on one. Raises StoreError.
        """
        ...

    def write(self, changes: Changes) -> None:
        """Write all of `changes` or nothing. May block. Raises StoreError."""
        ...

    def close(self) -> None:
        """Let go of it. Closing twice does nothing."""
        ...


class NullBackend:
    """Keeps nothing: the state lives as long as its process."""

    durable = False
    recovered_from: Path | None = None
    begun_afresh = False

    def find(self, service: str, key: Key) -> BindingRecord | None:
        """Find nothing."""
        del service, key
        return None

    def bindings(self, service: str, *, wall: float, size: int) -> Iterator[list[BindingRecord]]:
        """Yield nothing."""
        del service, wall, size
        return iter(())

    def write(self, changes: Changes) -> None:
        """Write nowhere."""

    def close(self) -> None:
        """Hold nothing."""
