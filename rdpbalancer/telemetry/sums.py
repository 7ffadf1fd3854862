"""Lines that strangers can cause without end: the first ones are told one by one, the rest in a sum.

A scanner or a flood would otherwise fill the disk and hide what matters: two lines for each connection.
"""

from collections.abc import Callable
from typing import Final

import msgspec

# How long is summed up, in seconds.
WINDOW_S: Final = 10.0
# Sources that are told apart in one sum; a flood that makes up its addresses is counted all the same.
MAX_SOURCES: Final = 1000


class Sum(msgspec.Struct, frozen=True):
    """What was not told one by one: how many, from how many sources (up to `MAX_SOURCES`), most by which."""

    about: tuple[str, ...]
    count: int
    sources: int
    most_from: str


class _Tally(msgspec.Struct):
    began_at: float
    told: int = 0
    count: int = 0
    sources: dict[str, int] = msgspec.field(default_factory=dict)


class Sums:
    """Counts what is alike. `at_once`: so many in a window are told by themselves; `clock` counts seconds.

    What a line is about has to be of a bounded number: services, servers, stable reasons.
    """

    def __init__(self, *, at_once: int, clock: Callable[[], float]) -> None:
        self._at_once = at_once
        self._clock = clock
        self._tallies: dict[tuple[str, ...], _Tally] = {}

    def tells(self, about: tuple[str, ...], source: str) -> bool:
        """Whether this one is told by itself; if not it is counted."""
        tally = self._tallies.get(about)
        if tally is None:
            tally = self._tallies[about] = _Tally(self._clock())
        if tally.told < self._at_once:
            tally.told += 1
            return True
        tally.count += 1
        if source in tally.sources or len(tally.sources) < MAX_SOURCES:
            tally.sources[source] = tally.sources.get(source, 0) + 1
        return False

    def due(self, *, at_all: bool = False) -> list[Sum]:
        """Return the sums whose window is over, or all of them, and begin anew."""
        over_at = self._clock() - WINDOW_S
        over = {about: tally for about, tally in self._tallies.items() if at_all or tally.began_at <= over_at}
        for about in over:
            del self._tallies[about]
        return [_summed_up(about, tally) for about, tally in over.items() if tally.count]


def _summed_up(about: tuple[str, ...], tally: _Tally) -> Sum:
    most_from = max(tally.sources, key=tally.sources.__getitem__)
    return Sum(about, tally.count, len(tally.sources), most_from)
