"""Durable bindings and overrides: kept in memory, their changes written to SQLite behind the loop's back.

The verbs never wait for the disk. They note which keys changed; `take_changes` turns those into rows on the
loop's thread, `write` puts them into the file on another thread, `put_back` undoes a take whose write failed.
"""

from collections import OrderedDict
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Final, Self

from rdpbalancer.core.status import Override
from rdpbalancer.model import Key, ServerId
from rdpbalancer.stores import rows, statefile
from rdpbalancer.stores.claims import MAX_TENTATIVE
from rdpbalancer.stores.memory import MAX_ENTRIES, MemoryStore
from rdpbalancer.stores.rows import BindingRow, Changes
from rdpbalancer.stores.statefile import Connect, StateFile

# How many bindings one transaction takes: 2 to 3 ms of the loop's time. A mass change (a smaller bound, a
# login storm) is spread over several.
MAX_CHANGES: Final = 1000


class _Tracked:
    """One service's store, and which of its keys have changed since they were last taken, oldest first."""

    def __init__(self, *, max_entries: int, max_tentative: int) -> None:
        self.dirty: OrderedDict[Key, None] = OrderedDict()
        self.store = MemoryStore(max_entries=max_entries, max_tentative=max_tentative, on_change=self._note)

    def _note(self, key: Key) -> None:
        self.dirty[key] = None

    def take(self, limit: int) -> list[Key]:
        """Take at most `limit` keys out of the dirty ones."""
        count = min(limit, len(self.dirty))
        return [self.dirty.popitem(last=False)[0] for _ in range(count)]

    def put_back(self, keys: Iterable[Key]) -> None:
        """Make keys dirty again, before those that have become so since."""
        self.dirty = OrderedDict.fromkeys(chain(keys, self.dirty))


class Database:
    """The durable copy of a router's state. All but `write` is called on one thread, the loop's."""

    def __init__(self, file: StateFile, *, now: float, wall: float) -> None:
        """Read `file`, which is open. `now` (monotonic) and `wall` (Unix) are the same moment."""
        self._file = file
        self._opened_at = now
        self._opened_wall = wall
        self._services: dict[str, _Tracked] = {}
        self._forgotten: dict[str, None] = {}
        self._dirty_servers: dict[ServerId, None] = {}
        # Read once, here: afterwards the file is only written to, so nothing on the loop waits for it.
        bindings, overrides = file.read(wall=wall)
        self._unclaimed: dict[str, list[BindingRow]] = {}
        for row in bindings:
            self._unclaimed.setdefault(row.service, []).append(row)
        self._overrides = dict(map(rows.unpack_override, overrides))
        file.begun_afresh = False

    @classmethod
    def open(cls, path: Path, *, now: float, wall: float, connect: Connect = statefile.connect) -> Self:
        """Open the state file at `path`, creating it and its folder where missing.

        Args:
            path: the file; SQLite keeps two more beside it, `-wal` and `-shm`.
            now: monotonic seconds.
            wall: Unix seconds at the same moment.
            connect: opens SQLite on a path, in autocommit mode and for use by several threads in turn.

        Raises:
            StoreError: the file cannot be used: rights, another program's, a newer version's, a full disk.
        """
        file = StateFile(path, connect=connect)
        try:
            file.open(wall=wall)
            return cls(file, now=now, wall=wall)
        except BaseException:
            file.close()
            raise

    @property
    def recovered_from(self) -> Path | None:
        """Where the last damaged state file was moved to, None: none was found damaged."""
        return self._file.recovered_from

    def services(self) -> set[str]:
        """Return the names of all services of which anything is kept.

        Those that the configuration no longer has are the caller's to forget.
        """
        return {server.service for server in self._overrides} | set(self._unclaimed) | set(self._services)

    def bindings(
        self, service: str, *, max_entries: int = MAX_ENTRIES, max_tentative: int = MAX_TENTATIVE
    ) -> MemoryStore:
        """Return the service's store, with the bindings that the file held; the same store each time.

        Pinned bindings come back pinned: the caller un-pins (`touch`) those without a live session. When the
        table has to shrink, of the bindings read from the file those that expire first give way first.
        """
        tracked = self._services.get(service)
        if tracked is not None:
            tracked.store.resize(max_entries)
            return tracked.store
        tracked = self._services[service] = _Tracked(max_entries=max_entries, max_tentative=max_tentative)
        tracked.store.restore(
            rows.unpack_binding(row, now=self._opened_at, wall=self._opened_wall)
            for row in self._unclaimed.pop(service, ())
        )
        return tracked.store

    def overrides(self) -> dict[ServerId, Override]:
        """Return what the operator has said of which servers."""
        return dict(self._overrides)

    def set_override(self, server: ServerId, override: Override | None) -> None:
        """Keep what the operator says of `server`; None: it is as configured again."""
        if override is None:
            self._overrides.pop(server, None)
        else:
            self._overrides[server] = override
        self._dirty_servers[server] = None

    def forget_service(self, service: str) -> None:
        """Drop all that is kept of a service; its store, if it has one, is no longer written."""
        self._services.pop(service, None)
        self._unclaimed.pop(service, None)
        for server in [server for server in self._overrides if server.service == service]:
            del self._overrides[server]
        self._forgotten[service] = None

    def take_changes(self, *, now: float, wall: float) -> Changes | None:
        """Take what has changed since the last take, at most `MAX_CHANGES` bindings; None: nothing.

        `now` (monotonic) and `wall` (Unix) are the same moment.
        """
        if self._file.begun_afresh:
            self._file.begun_afresh = False
            self._mark_everything()
        if not self.dirty:
            return None
        changes = Changes(wall=wall, forgotten=tuple(self._forgotten), servers=list(self._dirty_servers))
        self._forgotten.clear()
        self._dirty_servers.clear()
        room = MAX_CHANGES
        for service, tracked in self._services.items():
            if tracked.dirty and room:
                keys = changes.keys[service] = tracked.take(room)
                room -= len(keys)
                _add_rows(changes, service, tracked.store, keys, now=now)
        changes.overridden.extend(
            rows.pack_override(server, self._overrides[server])
            for server in changes.servers
            if server in self._overrides
        )
        return changes

    @property
    def dirty(self) -> bool:
        """Whether there is anything to take."""
        return bool(
            self._forgotten
            or self._dirty_servers
            or any(tracked.dirty for tracked in self._services.values())
        )

    def write(self, changes: Changes) -> None:
        """Write what was taken, in one transaction. May block: for a worker thread, one write at a time.

        Raises:
            StoreError: nothing was written; `put_back` the changes and try again later.
        """
        self._file.write(changes)

    def put_back(self, changes: Changes) -> None:
        """Make what could not be written dirty again; what has changed meanwhile is written as it is then."""
        self._forgotten = dict.fromkeys(changes.forgotten) | self._forgotten
        for service, keys in changes.keys.items():
            if (tracked := self._services.get(service)) is not None:
                tracked.put_back(keys)
        self._dirty_servers = dict.fromkeys(changes.servers) | self._dirty_servers

    def close(self) -> None:
        """Close the file. What was not taken and written is lost: `run_journal` does so before it ends."""
        self._file.close()

    def _mark_everything(self) -> None:
        for tracked in self._services.values():
            tracked.put_back(tracked.store.confirmed_keys())
        self._dirty_servers |= dict.fromkeys(self._overrides)


def _add_rows(changes: Changes, service: str, store: MemoryStore, keys: list[Key], *, now: float) -> None:
    for key in keys:
        binding = store.confirmed(key)
        if binding is None:
            changes.unbound.append((service, key.method.value, rows.pack_value(key.value)))
        else:
            changes.bound.append(rows.pack_binding(service, binding, now=now, wall=changes.wall))
