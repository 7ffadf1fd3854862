"""kill -9 of a process that is writing."""

import sys
import time
from pathlib import Path

import pytest

from rdpbalancer.core.persistence import Store
from rdpbalancer.stores.state import DurableState
from tests.faults.stores.writer import KEYS, SERVICE, key
from tests.support.processes import Processes, RealProcess

pytestmark = pytest.mark.faults

REPOSITORY = Path(__file__).parents[3]


def told(process: RealProcess) -> list[tuple[int, float]]:
    """The changes that the writer has told of, whole lines only: number, monotonic seconds."""
    lines = process.output().rpartition("\n")[0].splitlines()
    return [(int(number), float(at)) for number, at in (line.split() for line in lines)]


def stored_number(store: Store, number: int) -> int:
    """The change that the key of change `number` is found with; -1: none."""
    binding = store.get(key(number), now=time.monotonic())
    return int(binding.server.removeprefix("server")) if binding else -1


@pytest.mark.parametrize("run_s", [1.6, 2.03, 2.37])
def test_changes_older_than_a_second_survive_a_kill(tmp_path: Path, run_s: float) -> None:
    """The next process finds every change that was a second old, and the file is sound."""
    path = tmp_path / "state.db"
    with Processes(tmp_path) as processes:
        writer = processes.start(
            sys.executable, "-m", "tests.faults.stores.writer", str(path), cwd=REPOSITORY
        )
        writer.wait_for_output("^0 ", 20)
        started_at = told(writer)[0][1]
        writer.wait_for(lambda: time.monotonic() >= started_at + run_s, 20, f"{run_s} s of writing")
        killed_at = time.monotonic()
        writer.stop(signal_number=9)
    changes = told(writer)
    old = {number % KEYS: number for number, at in changes if at < killed_at - 1.0}
    assert KEYS == len(old), "too slow a machine to tell"

    database = DurableState.open(path, now=time.monotonic(), wall=time.time())
    try:
        assert None is database.recovered_from
        store = database.bindings(SERVICE)
        lost = [number for number in old.values() if stored_number(store, number) < number]
        assert [] == lost
        last = changes[-1][0] + 20  # the turn that the kill may have kept from being told
        assert all(stored_number(store, number) <= last for number in old.values())
    finally:
        database.close()
