"""Where a store under contract lives: in memory, over a state file, or over one that was just reopened."""

from pathlib import Path
from typing import Final, Protocol

from rdpbalancer.core.persistence import Store
from rdpbalancer.stores.memory import MemoryStore
from rdpbalancer.stores.state import DurableState

SERVICE: Final = "ts-cluster"

# The wall clock runs with the monotonic one, this far ahead. Whole seconds keep the conversions exact.
WALL_OFFSET_S: Final = 1_700_000_000.0


class Home(Protocol):
    """Makes a store, and gives it the chance to go through the disk."""

    def store(self, *, max_entries: int = 100, max_tentative: int = 100) -> Store:
        """Return the store, empty. Called once."""
        ...

    def settle(self, store: Store, *, now: float) -> Store:
        """Return a store that must hold the same confirmed bindings as `store`."""
        ...

    def close(self) -> None:
        """Give everything back."""
        ...


class MemoryHome:
    """A store that is nowhere but in memory."""

    def store(self, *, max_entries: int = 100, max_tentative: int = 100) -> Store:
        """Return an empty store."""
        return MemoryStore(max_entries=max_entries, max_tentative=max_tentative)

    def settle(self, store: Store, *, now: float) -> Store:
        """Change nothing."""
        del now
        return store

    def close(self) -> None:
        """Hold nothing."""


class DatabaseHome:
    """The store of a state file. `reopens`: settling means writing, closing and reading it again.

    `lazy`: what the file holds is not loaded, but by its keys.
    """

    def __init__(self, path: Path, *, reopens: bool, lazy: bool = False) -> None:
        self._lazy = lazy
        self._path = path
        self._reopens = reopens
        self._bounds = (0, 0)
        self.database = self._open(0.0)

    def store(self, *, max_entries: int = 100, max_tentative: int = 100) -> Store:
        """Return the service's store."""
        self._bounds = (max_entries, max_tentative)
        return self._store()

    def settle(self, store: Store, *, now: float) -> Store:
        """Write what has changed; with `reopens`, begin anew from the file."""
        self.flush(now=now)
        return self.reopen(now=now) if self._reopens else store

    def flush(self, *, now: float) -> None:
        """Write all changes to the file."""
        while (changes := self.database.take_changes(now=now, wall=WALL_OFFSET_S + now)) is not None:
            self.database.write(changes)

    def reopen(self, *, now: float, max_entries: int | None = None) -> Store:
        """Close the file without writing and return the store of a new process."""
        self.database.close()
        self.database = self._open(now)
        if max_entries is not None:
            self._bounds = (max_entries, self._bounds[1])
        return self._store()

    def close(self) -> None:
        """Close the file."""
        self.database.close()

    def _open(self, now: float) -> DurableState:
        return DurableState.open(self._path, now=now, wall=WALL_OFFSET_S + now)

    def _store(self) -> Store:
        max_entries, max_tentative = self._bounds
        store = self.database.bindings(SERVICE, max_entries=max_entries, max_tentative=max_tentative)
        if not self._lazy:
            self.database.load_all()
        return store
