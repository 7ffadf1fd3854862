"""A balancer of its own for every test: its processes are killed."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.house import House


@pytest.fixture
def new_house(tmp_path: Path) -> Iterator[Callable[..., House]]:
    """Start a balancer (keys of `House`); stopped at the test's end, which fails if a process is left."""
    started: list[House] = []

    def start(**keys: Any) -> House:
        folder = tmp_path / f"h{len(started)}"
        folder.mkdir()
        house = House(folder, **keys)
        started.append(house)  # first: a start that fails has to be cleared away, too
        house.start()
        return house

    yield start
    for house in started:
        house.dismiss()
        house.stop()
        assert [] == house.complaints()
