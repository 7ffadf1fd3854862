"""A wall clock that jumped while the service was away."""

from contextlib import closing
from pathlib import Path

import pytest

from rdpbalancer.model import Key, Method
from rdpbalancer.stores.state import DurableState

pytestmark = pytest.mark.faults

IDLE = Key(Method.RDP_COOKIE, "idle")
LIVE = Key(Method.RDP_COOKIE, "live")
WALL = 1_700_000_000.0
YEAR_S = 365 * 86400.0
TTL_S = 3600.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A state file with an idle binding and one with a live session, closed."""
    path = tmp_path / "state.db"
    with closing(DurableState.open(path, now=100.0, wall=WALL)) as database:
        store = database.bindings("farm")
        store.move(IDLE, "ts1", now=100, ttl_s=TTL_S)
        store.confirm(LIVE, "ts2", now=100)
        changes = database.take_changes(now=100, wall=WALL)
        assert changes is not None
        database.write(changes)
    return path


def test_a_clock_set_back_by_a_year_binds_nobody_for_a_year(path: Path) -> None:
    """An idle binding has at most the life that it had when it was written."""
    with closing(DurableState.open(path, now=5.0, wall=WALL - YEAR_S)) as database:
        store = database.bindings("farm")
        database.load_all()
        assert {IDLE: 5 + TTL_S, LIVE: None} == {b.key: b.expires_at for b in store.entries(now=5)}
        assert 1 == store.expire(now=5 + TTL_S)


def test_a_clock_a_year_ahead_ends_what_is_idle_and_keeps_what_is_live(path: Path) -> None:
    """A wrong clock cannot be told from a year in a cupboard; live sessions need no clock."""
    with closing(DurableState.open(path, now=5.0, wall=WALL + YEAR_S)) as database:
        store = database.bindings("farm")
        database.load_all()
        assert {LIVE: "ts2"} == {b.key: b.server for b in store.entries(now=5)}
        store.touch(LIVE, now=5, ttl_s=TTL_S)
        assert store.get(LIVE, now=5 + TTL_S - 1) is not None


def test_a_clock_set_right_while_the_service_runs_changes_nothing(path: Path) -> None:
    """Within one run only monotonic time counts, and rows are written with the clock as it is then."""
    with closing(DurableState.open(path, now=5.0, wall=WALL - YEAR_S)) as database:
        store = database.bindings("farm")
        database.load_all()
        store.touch(IDLE, now=10, ttl_s=TTL_S)
        changes = database.take_changes(now=20, wall=WALL)
        assert changes is not None
        database.write(changes)
    with closing(DurableState.open(path, now=0.0, wall=WALL + 90)) as database:
        binding = database.bindings("farm").get(IDLE, now=0)
        assert binding is not None
        assert TTL_S - 100 == binding.expires_at
