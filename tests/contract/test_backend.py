"""What every backend promises of a router's state (`stores.backend.Backend`)."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rdpbalancer.model import Key, Method
from rdpbalancer.stores.backend import Backend, NullBackend
from rdpbalancer.stores.records import BindingRecord, Changes, pack_value
from rdpbalancer.stores.sqlite_backend import open_file

WALL = 1_750_000_000.0
SERVICE = "ts"
ALICE, BERT = Key(Method.RDP_COOKIE, "alice"), Key(Method.RDP_COOKIE, "bert")
BACKENDS: dict[str, Callable[[Path], Backend]] = {
    "sqlite": lambda folder: open_file(folder / "state.db", wall=WALL)[0],
    "none": lambda _folder: NullBackend(),
}


@pytest.fixture(params=BACKENDS)
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Backend]:
    """Return what opens a backend of each kind, the same one each time."""
    return lambda: BACKENDS[request.param](tmp_path)


@pytest.fixture
def backend(make: Callable[[], Backend]) -> Iterator[Backend]:
    """Return an open backend."""
    made = make()
    yield made
    made.close()


def bound(key: Key, server: str, *, until: float | None = None) -> BindingRecord:
    """Return a binding as it is written. `until`: Unix time, None: pinned."""
    return BindingRecord(
        SERVICE, key.method.value, pack_value(key.value), server, until, None if until is None else 60.0
    )


def wrote(*records: BindingRecord, unbound: tuple[Key, ...] = ()) -> Changes:
    """Return changes that bind these and unbind those."""
    changes = Changes(wall=WALL, forgotten=(), servers=[], sweep=False)
    changes.bound.extend(records)
    changes.unbound.extend((SERVICE, key.method.value, pack_value(key.value)) for key in unbound)
    return changes


def everything(backend: Backend) -> dict[bytes, str]:
    """Return every binding's server by its key's value."""
    rows = [row for some in backend.bindings(SERVICE, wall=WALL, size=1) for row in some]
    return {row.value: row.server for row in rows}


def test_what_is_written_is_found_and_given_back(backend: Backend, make: Callable[[], Backend]) -> None:
    """By a durable one, also after it was closed and opened again; by another one never."""
    backend.write(wrote(bound(ALICE, "ts1"), bound(BERT, "ts2", until=WALL + 60)))
    backend.close()
    again = make()
    expected = {pack_value("alice"): "ts1", pack_value("bert"): "ts2"} if again.durable else {}
    assert expected == everything(again)
    found = again.find(SERVICE, ALICE)
    assert (bound(ALICE, "ts1") if again.durable else None) == found
    assert again.find("other", ALICE) is None
    again.close()


def test_what_is_unbound_is_gone(backend: Backend) -> None:
    backend.write(wrote(bound(ALICE, "ts1")))
    backend.write(wrote(unbound=(ALICE,)))
    assert {} == everything(backend)
    assert backend.find(SERVICE, ALICE) is None


def test_the_last_word_counts(backend: Backend) -> None:
    backend.write(wrote(bound(ALICE, "ts1")))
    backend.write(wrote(bound(ALICE, "ts2")))
    assert ({pack_value("alice"): "ts2"} if backend.durable else {}) == everything(backend)


def test_a_new_one_has_recovered_from_nothing(backend: Backend) -> None:
    assert backend.recovered_from is None


def test_closing_twice_does_nothing(backend: Backend) -> None:
    backend.close()
    backend.close()
