"""A balancer of its own for every test: its processes are killed."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.running_balancer import RunningBalancer


@pytest.fixture
def new_balancer(tmp_path: Path) -> Iterator[Callable[..., RunningBalancer]]:
    """Start a balancer (keys of `RunningBalancer`); at the test's end it is stopped, and no process left."""
    started: list[RunningBalancer] = []

    def start(**keys: Any) -> RunningBalancer:
        folder = tmp_path / f"h{len(started)}"
        folder.mkdir()
        balancer = RunningBalancer(folder, **keys)
        started.append(balancer)  # first: a start that fails has to be cleared away, too
        balancer.start()
        return balancer

    yield start
    for balancer in started:
        balancer.dismiss()
        balancer.stop()
        assert [] == balancer.complaints()
