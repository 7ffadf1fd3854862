"""Random histories: every store does what a model made of lists does, call by call."""
# ruff: noqa: D102 - a rule's name is the verb that it calls

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from rdpbalancer.core.persistence import Store
from rdpbalancer.model import Key, Method
from rdpbalancer.stores.records import BindingRecord, Changes
from tests.contract.homes import WALL_OFFSET_S, DatabaseHome, Home, MemoryHome
from tests.contract.store_model import StoreModel

HOLD_S: Final = 15.0
KEYS: Final = [
    Key(Method.RDP_COOKIE, "anna"),
    Key(Method.RDP_COOKIE, "bert"),
    Key(Method.RDP_COOKIE, "\udcffé\x00"),
    Key(Method.SOURCE_IP, "anna"),
    Key(Method.SOURCE_IP, "2001:db8::/64"),
]
SERVERS: Final = ["ts1", "ts2", "ts3"]

keys = st.sampled_from(KEYS)
servers = st.sampled_from(SERVERS)
bounds = st.integers(1, 4)
lives = st.sampled_from([10.0, 20.0, 60.0])


class StoreMachine(RuleBasedStateMachine):
    """Drives a store and the model side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.home = self.make_home()
        self.now = 1000.0
        self.store: Store
        self.model: StoreModel

    def make_home(self) -> Home:
        return MemoryHome()

    @initialize(max_entries=bounds, max_tentative=bounds)
    def begin(self, max_entries: int, max_tentative: int) -> None:
        self.store = self.home.store(max_entries=max_entries, max_tentative=max_tentative)
        self.model = StoreModel(max_entries, max_tentative)

    def teardown(self) -> None:
        self.home.close()

    @rule(seconds=st.sampled_from([0.5, 5.0, 10.0, 30.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(key=keys, server=servers, replacing=st.none() | servers)
    def claim(self, key: Key, server: str, replacing: str | None) -> None:
        expected = self.model.claim(key, server, self.now, HOLD_S, replacing)
        actual = self.store.claim(key, server, now=self.now, hold_s=HOLD_S, replacing=replacing)
        assert expected == actual

    @rule(key=keys, server=servers)
    def confirm(self, key: Key, server: str) -> None:
        self.model.confirm(key, server, self.now)
        self.store.confirm(key, server, now=self.now)

    @rule(key=keys, server=servers)
    def release(self, key: Key, server: str) -> None:
        self.model.release(key, server, self.now)
        self.store.release(key, server, now=self.now)

    @rule(key=keys, ttl_s=lives)
    def touch(self, key: Key, ttl_s: float) -> None:
        self.model.touch(key, self.now, ttl_s)
        self.store.touch(key, now=self.now, ttl_s=ttl_s)

    @rule(key=keys, server=servers, ttl_s=st.none() | lives)
    def move(self, key: Key, server: str, ttl_s: float | None) -> None:
        self.model.move(key, server, self.now, ttl_s)
        self.store.move(key, server, now=self.now, ttl_s=ttl_s)

    @rule(key=keys)
    def delete(self, key: Key) -> None:
        # Whether a claim that has run out was still lying there is nobody's business.
        self.model.claims = [claim for claim in self.model.claims if claim.ends_at > self.now]
        lying_dead = self.store.get(key, now=self.now) is None
        expected, actual = self.model.delete(key), self.store.delete(key)
        assert expected == actual or lying_dead

    @rule()
    def expire(self) -> None:
        self.drop_expired()

    def drop_expired(self) -> None:
        assert self.model.expire(self.now) == self.store.expire(now=self.now)

    @rule(max_entries=bounds)
    def resize(self, max_entries: int) -> None:
        self.model.resize(max_entries)
        self.store.resize(max_entries)

    @invariant()
    def same_bindings(self) -> None:
        expected = {key: self.model.get(key, self.now) for key in KEYS}
        assert expected == {key: self.store.get(key, now=self.now) for key in KEYS}
        listed = list(self.store.entries(now=self.now))
        assert len(listed) == len(set(listed))
        assert self.model.entries(KEYS, self.now) == set(listed)

    @invariant()
    def same_numbers(self) -> None:
        assert self.model.counts() == self.store.counts()
        assert self.model.evictions == self.store.evictions


class DurableMachine(StoreMachine):
    """The same over a state file: changes are taken, written or put back, and processes end between."""

    def __init__(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.taken: Changes | None = None
        super().__init__()

    def make_home(self) -> Home:
        self.durable = DatabaseHome(Path(self.folder.name) / "state.db", reopens=True)
        return self.durable

    def teardown(self) -> None:
        super().teardown()
        self.folder.cleanup()

    @precondition(lambda self: self.taken is None)
    @rule()
    def take(self) -> None:
        self.taken = self.durable.database.take_changes(now=self.now, wall=WALL_OFFSET_S + self.now)

    @precondition(lambda self: self.taken is not None)
    @rule(fails=st.booleans())
    def finish_write(self, *, fails: bool) -> None:
        taken, self.taken = self.taken, None
        assert taken is not None
        if fails:
            self.durable.database.put_back(taken)
        else:
            self.durable.database.write(taken)

    @rule(max_entries=bounds, away_s=st.sampled_from([0.0, 10.0]))
    def restart(self, max_entries: int, away_s: float) -> None:
        self.begin_anew(max_entries, away_s)

    def begin_anew(self, max_entries: int, away_s: float) -> None:
        if self.taken is not None:
            self.finish_write(fails=True)
        self.durable.flush(now=self.now)
        self.now += away_s
        self.store = self.durable.reopen(now=self.now, max_entries=max_entries)
        self.model.restart(self.now)
        self.model.resize(max_entries)


class LoadingMachine(DurableMachine):
    """After a restart the file's bindings come in slices, between and during everything else.

    The bound is never reached here: until all is loaded, what gives way is another.
    """

    def __init__(self) -> None:
        self.slices: Iterator[list[BindingRecord]] | None = None
        super().__init__()

    def make_home(self) -> Home:
        self.durable = DatabaseHome(Path(self.folder.name) / "state.db", reopens=True, lazy=True)
        return self.durable

    @initialize()
    def begin(self) -> None:
        self.store = self.home.store(max_entries=100, max_tentative=100)
        self.model = StoreModel(100, 100)

    @rule()
    def resize(self) -> None:
        pass

    @rule(away_s=st.sampled_from([0.0, 10.0]))
    def restart(self, away_s: float) -> None:
        self.slices = None
        self.begin_anew(100, away_s)

    @rule()
    def load_a_slice(self) -> None:
        database = self.durable.database
        for service in database.loading():
            self.slices = self.slices or database.rows_of(service, size=1)
            database.load(service, next(self.slices, []))

    @precondition(lambda self: not self.durable.database.loading())
    @rule()
    def expire(self) -> None:
        self.drop_expired()

    @invariant()
    def same_bindings(self) -> None:
        expected = {key: self.model.get(key, self.now) for key in KEYS}
        assert expected == {key: self.store.get(key, now=self.now) for key in KEYS}


# How long examples take is the machine's business.
_UNTIMED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
TestMemoryStore = StoreMachine.TestCase
TestMemoryStore.settings = settings(_UNTIMED, max_examples=150)
TestDurableStore = DurableMachine.TestCase
TestDurableStore.settings = settings(_UNTIMED, max_examples=30)
