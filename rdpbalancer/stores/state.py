"""Durable bindings and overrides: kept in memory, their changes written to SQLite behind the loop's back.

The verbs never wait for a write. They note which keys changed; `take_changes` turns those into rows on the
loop's thread, `write` puts them into the file on another thread, `put_back` undoes a take whose write failed.
A backend that cannot be opened now may be `attach`ed later: what has changed by then goes before what it has.
"""

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final, Self

from rdpbalancer.core.status import Override
from rdpbalancer.model import Method, ServerId
from rdpbalancer.stores import records, sqlite_backend
from rdpbalancer.stores.absent import outlived, with_services
from rdpbalancer.stores.backend import Backend, NullBackend
from rdpbalancer.stores.claims import MAX_TENTATIVE
from rdpbalancer.stores.loading import Loading
from rdpbalancer.stores.memory import MAX_ENTRIES, MemoryStore
from rdpbalancer.stores.records import BindingRecord, Changes, ConfiguredRecord, Contents
from rdpbalancer.stores.sqlite_backend import Connect, open_file
from rdpbalancer.stores.tracking import TrackedStore

# How many bindings one transaction takes: 2 to 3 ms of the loop's time. A mass change (a smaller bound, a
# login storm) is spread over several.
MAX_CHANGES: Final = 1000


class DurableState:
    """A router's state and its durable copy.

    All but `write` and the steps of `rows_of` is called on one thread, the loop's.
    `now` is monotonic, `wall` Unix time; where both are given they are the same moment.
    """

    def __init__(self) -> None:
        self._backend: Backend = NullBackend()
        self._attached_at = 0.0
        self._attached_wall = 0.0
        self._services: dict[str, TrackedStore] = {}
        self._forgotten: dict[str, None] = {}
        self._dirty_servers: dict[ServerId, None] = {}
        self._overrides: dict[ServerId, Override] = {}
        # The name of a service stands for it with an empty server name.
        self._configured: dict[ServerId, float] = {}
        self._dirty_configured: dict[ServerId, None] = {}
        self._counts: dict[str, dict[Method, int]] = {}
        self._sweep = False

    @classmethod
    def open(cls, path: Path, *, now: float, wall: float, connect: Connect = sqlite_backend.connect) -> Self:
        """Open the state file at `path`, creating it and its folder where missing.

        SQLite keeps two more files beside it, `-wal` and `-shm`. `connect` opens SQLite on a path, in
        autocommit mode and for use by several threads in turn. Raises StoreError: the file cannot be used
        (rights, another program's, a newer version's, a full disk).
        """
        database = cls()
        file, contents = open_file(path, wall=wall, connect=connect)
        database.attach(file, contents, now=now, wall=wall)
        return database

    def attach(self, backend: Backend, contents: Contents, *, now: float, wall: float) -> None:
        """Keep the state there from now on; what it holds counts beneath what has changed already."""
        self._backend = backend
        self._attached_at, self._attached_wall = now, wall
        self._counts = contents.counts
        for server, override in map(records.unpack_override, contents.overrides):
            if server not in self._dirty_servers:
                self._overrides[server] = override
        for row in contents.configured:
            self._configured.setdefault(ServerId(row.service, row.server), row.seen_at)
        for service, tracked in self._services.items():
            tracked.bounded = False
            tracked.put_back(tracked.store.confirmed_keys())
            self._load_beneath(service, tracked)
        backend.begun_afresh = False

    @property
    def attached(self) -> bool:
        """Whether the state outlives this process."""
        return self._backend.durable

    @property
    def recovered_from(self) -> Path | None:
        """Where the last damaged state file was moved to, None: none was found damaged."""
        return self._backend.recovered_from

    def services(self) -> set[str]:
        """Return the names of all services of which anything is kept."""
        return {server.service for server in self._overrides} | self._counts.keys() | self._services.keys()

    # ---- bindings ----------------------------------------------------------------------------------

    def bindings(
        self, service: str, *, max_entries: int = MAX_ENTRIES, max_tentative: int = MAX_TENTATIVE
    ) -> MemoryStore:
        """Return the service's store; the same store each time.

        What the file holds of it is found by key from the first moment on, and is all in memory when `load`
        has been called with every slice of `rows_of`. Pinned bindings come back pinned: the caller un-pins
        (`touch`) those without a live session. Where the table is too small now, those that expire first
        give way.
        """
        tracked = self._services.get(service)
        if tracked is not None:
            tracked.store.resize(max_entries)
            tracked.store.limit_claims(max_tentative)
            return tracked.store
        tracked = self._services[service] = TrackedStore(max_entries=max_entries, max_tentative=max_tentative)
        tracked.bounded = not self._backend.durable
        self._load_beneath(service, tracked)
        return tracked.store

    def _load_beneath(self, service: str, tracked: TrackedStore) -> None:
        counts = self._counts.pop(service, None)
        if self._backend.durable and counts:
            tracked.load_from(
                Loading(
                    service,
                    self._backend.find,
                    counts=counts,
                    settled=tracked.dirty,
                    now=self._attached_at,
                    wall=self._attached_wall,
                )
            )

    def loading(self) -> list[str]:
        """Return the services whose bindings are not all in memory yet."""
        return [name for name, tracked in self._services.items() if tracked.loading is not None]

    def rows_of(self, service: str, *, size: int) -> Iterator[list[BindingRecord]]:
        """Yield what the file holds of a service, for `load`. Each step may block: for a worker thread.

        Raises StoreError.
        """
        return self._backend.bindings(service, wall=self._attached_wall, size=size)

    def load(self, service: str, found: list[BindingRecord]) -> None:
        """Take a slice of rows into memory; none: that was all of them."""
        tracked = self._services.get(service)
        if tracked is None or tracked.loading is None:
            return  # forgotten meanwhile
        if found:
            tracked.loading.load(tracked.store, found)
        else:
            tracked.load_from(None)

    def load_all(self) -> None:
        """Take in all that the file holds of the services asked for so far. Blocks. Raises StoreError."""
        for service in self.loading():
            for found in self.rows_of(service, size=MAX_CHANGES):
                self.load(service, found)
            self.load(service, [])

    # ---- overrides ---------------------------------------------------------------------------------

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

    # ---- what the configuration does not have ------------------------------------------------------

    def see_configured(self, servers: Collection[ServerId], *, wall: float) -> None:
        """Note that these servers and their services are configured at `wall`."""
        for server in with_services(servers):
            self._configured[server] = wall
            self._dirty_configured[server] = None

    def forget_absent(self, servers: Collection[ServerId], *, wall: float) -> int:
        """Forget what is kept of absent servers and services whose time is over (`stores.absent`).

        `servers` are those that are configured. Returns how many servers and services were forgotten.
        """
        names = {server.service for server in servers}
        kept = {*self._overrides, *(ServerId(name, "") for name in self._counts)}
        for server in kept - self._configured.keys():
            self._configured[server] = wall  # of a time when this was not noted
            self._dirty_configured[server] = None
        before = len(self._configured)
        for server in outlived(
            self._configured,
            configured=servers,
            overridden=self._overrides.keys(),
            bindings={name: sum(counts.values()) for name, counts in self._counts.items()},
            in_use=self._services.keys(),
            wall=wall,
        ):
            self._forget(server, service_too=server.service not in names)
        return before - len(self._configured)

    def _forget(self, server: ServerId, *, service_too: bool) -> None:
        if not server.name and service_too:
            self.forget_service(server.service)
        if self._overrides.pop(server, None) is not None:
            self._dirty_servers[server] = None
        self._configured.pop(server, None)
        self._dirty_configured[server] = None

    def forget_service(self, service: str) -> None:
        """Drop all that is kept of a service; its store, if it has one, is no longer written."""
        self._services.pop(service, None)
        self._counts.pop(service, None)
        for kept in (self._overrides, self._configured):
            for server in [server for server in kept if server.service == service]:
                del kept[server]
        self._forgotten[service] = None

    # ---- writing -----------------------------------------------------------------------------------

    def sweep(self) -> None:
        """Have the next write delete rows that have expired unseen, as those of services without a store."""
        self._sweep = True

    def limit_claims(self, max_tentative: int) -> None:
        """Change the bound on tentative claims of every service."""
        for tracked in self._services.values():
            tracked.store.limit_claims(max_tentative)

    def take_changes(self, *, now: float, wall: float) -> Changes | None:
        """Take what has changed since the last take, at most `MAX_CHANGES` bindings; None: nothing."""
        if self._backend.begun_afresh:
            self._backend.begun_afresh = False
            self._mark_everything()
        if not self.dirty:
            return None
        changes = Changes(
            wall=wall,
            forgotten=tuple(self._forgotten),
            servers=list(self._dirty_servers),
            sweep=self._sweep,
        )
        room = MAX_CHANGES
        for service, tracked in self._services.items():
            if tracked.dirty and room:
                room -= tracked.take(changes, service, room, now=now)
        for server in changes.servers:
            if server in self._overrides:
                changes.overridden.append(records.pack_override(server, self._overrides[server]))
            else:
                changes.taken_back.append(server)
        for server in self._dirty_configured:
            if server in self._configured:
                changes.seen.append(ConfiguredRecord(*server, self._configured[server]))
            else:
                changes.unseen.append(server)
        self._forgotten.clear()
        self._dirty_servers.clear()
        self._dirty_configured.clear()
        self._sweep = False
        return changes

    @property
    def dirty(self) -> bool:
        """Whether there is anything to take."""
        return bool(
            self._forgotten
            or self._sweep
            or self._dirty_servers
            or self._dirty_configured
            or any(tracked.dirty for tracked in self._services.values())
        )

    def write(self, changes: Changes) -> None:
        """Write what was taken, in one transaction. May block: for a worker thread, one write at a time.

        Raises:
            StoreError: nothing was written; `put_back` the changes and try again later.
        """
        self._backend.write(changes)

    def put_back(self, changes: Changes) -> None:
        """Make what could not be written dirty again; what has changed meanwhile is written as it is then."""
        self._forgotten = dict.fromkeys(changes.forgotten) | self._forgotten
        self._sweep = self._sweep or changes.sweep
        for service, keys in changes.keys.items():
            if (tracked := self._services.get(service)) is not None:
                tracked.put_back(keys)
        self._dirty_servers = dict.fromkeys(changes.servers) | self._dirty_servers
        seen = [ServerId(row.service, row.server) for row in changes.seen]
        self._dirty_configured = dict.fromkeys([*seen, *changes.unseen]) | self._dirty_configured

    def close(self) -> None:
        """Close the file. What was not taken and written is lost: `run_journal` does so before it ends."""
        self._backend.close()

    def _mark_everything(self) -> None:
        for tracked in self._services.values():
            tracked.put_back(tracked.store.confirmed_keys())
        self._dirty_servers |= dict.fromkeys(self._overrides)
        self._dirty_configured |= dict.fromkeys(self._configured)
