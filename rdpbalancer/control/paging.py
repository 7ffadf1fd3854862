"""Lists in pages: a verb says what there is and how a row is made of it, and pages are cut here, in slices.

Rows come in a fixed order, so the cursor of a page is the place of its last row and stays good whatever
changes meanwhile, over a restart of the router too. What was sorted for one page is kept for the next.
"""

import asyncio
import heapq
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from rdpbalancer.control.pacing import Pacer
from rdpbalancer.errors import ConfigurationError

# Rows in one answer, and their bytes: what 32 clients that do not read can cost stays below 8 MiB.
MAX_ROWS: Final = 1000
MAX_PAGE_BYTES: Final = 256 * 1024
# Sorted lists kept for their next page: each is 8 bytes a row, 8 MB for a million.
MAX_KEPT: Final = 4
KEPT_S: Final = 60.0
# So many items are looked at, or sorted, in one go: some tenths of a millisecond.
_CHUNK: Final = 512

# What rows are ordered by: a tuple of text and numbers, or what compares and iterates as one (`model.Key`).
Place = Any


@dataclass(frozen=True, slots=True)
class Group:
    """Rows under one name (those of a virtual service).

    `items`: references to what there is, all taken at one moment. `place` gives an item's place in the order,
    or None if it is not wanted (the filter). `row` makes the row of a place when
    its page is due, or None if it is gone by then.
    """

    name: str
    items: Sequence[Any]
    place: Callable[[Any], Place | None]
    row: Callable[[Place], Any | None]


@dataclass(frozen=True, slots=True)
class Listing:
    """What a list verb answers with. `query`: equal ones have equal rows; `groups` sorted by name."""

    query: Hashable
    groups: Callable[[], Sequence[Group]]
    limit: int = MAX_ROWS
    after: str | None = None


class Page(msgspec.Struct):
    """One page. `next` is the cursor of the next one, None: there is none. `total`: rows of all pages."""

    rows: list[msgspec.Raw]
    next: str | None
    total: int


class _Sorted:
    """The places of a listing behind a cursor, merged from short sorted runs as they are asked for."""

    def __init__(self) -> None:
        self.total = 0
        self.runs: list[tuple[Group, list[list[Place]]]] = []
        self.used_at = 0.0
        self._coming: Iterator[tuple[Group, Place]] | None = None
        self._next: tuple[Group, Place] | None = None

    def begin(self) -> None:
        """Take the runs as they are; from here on `pop` yields."""
        self._coming = iter(self._merged())
        self._next = next(self._coming, None)

    def pop(self) -> tuple[Group, Place] | None:
        """Return the next place with its group, each only once."""
        popped = self._next
        while popped is not None and self._coming is not None:
            self._next = next(self._coming, None)
            if self._next != popped:
                break
        return popped

    @property
    def more(self) -> bool:
        """Whether there is another."""
        return self._next is not None

    def _merged(self) -> Iterator[tuple[Group, Place]]:
        for group, runs in self.runs:
            for place in heapq.merge(*runs):
                yield group, place


class Pager:
    """Cuts pages, in turns that a pacer gives."""

    def __init__(self, pacer: Pacer, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._pacer = pacer
        self._clock = clock
        self._kept: OrderedDict[tuple[Hashable, str], _Sorted] = OrderedDict()
        self._forget: asyncio.TimerHandle | None = None

    async def page(self, listing: Listing) -> Page:
        """Return the page that is asked for. Raises ConfigurationError: no such `limit` or cursor."""
        if not 1 <= listing.limit <= MAX_ROWS:
            raise ConfigurationError("bad-parameters", f"limit: it is 1 to {MAX_ROWS}, not {listing.limit}")
        place = None if listing.after is None else _place(listing.after)
        ordered = self._kept.pop((listing.query, listing.after or ""), None)
        if ordered is None:
            ordered = await self._sort(listing, place)
        rows, last, size = list[msgspec.Raw](), None, 0
        while len(rows) < listing.limit and size < MAX_PAGE_BYTES and (found := ordered.pop()) is not None:
            group, last = found[0], found
            row = group.row(found[1])
            if row is not None:
                rows.append(msgspec.Raw(msgspec.json.encode(row)))
                size += len(rows[-1])
            await self._pacer.breathe()
        if last is None or not ordered.more:
            return Page(rows, None, ordered.total)
        cursor = msgspec.json.encode([last[0].name, *last[1]]).decode()
        self._keep((listing.query, cursor), ordered)
        return Page(rows, cursor, ordered.total)

    def forget(self) -> None:
        """Let go of what is kept for next pages."""
        self._kept.clear()
        if self._forget is not None:
            self._forget.cancel()
            self._forget = None

    async def _sort(self, listing: Listing, place: Place | None) -> _Sorted:
        ordered = _Sorted()
        for group in listing.groups():
            runs: list[list[Place]] = []
            ordered.runs.append((group, runs))
            for start in range(0, len(group.items), _CHUNK):
                places = map(group.place, group.items[start : start + _CHUNK])
                wanted = [each for each in places if each is not None]
                ordered.total += len(wanted)
                if run := sorted(wanted if place is None else _behind(wanted, group.name, place)):
                    runs.append(run)
                await self._pacer.breathe()
        ordered.begin()
        return ordered

    def _keep(self, at: tuple[Hashable, str], ordered: _Sorted) -> None:
        ordered.used_at = self._clock()
        self._kept[at] = ordered
        while len(self._kept) > MAX_KEPT:
            self._kept.popitem(last=False)
        if self._forget is None:
            self._forget = asyncio.get_running_loop().call_later(KEPT_S, self._forget_old)

    def _forget_old(self) -> None:
        self._forget = None
        old = self._clock() - KEPT_S
        for at in [at for at, ordered in self._kept.items() if ordered.used_at <= old]:
            del self._kept[at]
        if self._kept:
            self._forget = asyncio.get_running_loop().call_later(KEPT_S, self._forget_old)


def _place(after: str) -> Place:
    try:
        return tuple(msgspec.json.decode(after, type=list[str | int | float]))
    except (msgspec.MsgspecError, RecursionError):
        raise _no_cursor(after) from None


def _behind(places: Sequence[Place], group: str, place: Place) -> list[Place]:
    try:
        return [each for each in places if (group, *each) > place]
    except TypeError:
        raise _no_cursor(place) from None


def _no_cursor(after: object) -> ConfigurationError:
    return ConfigurationError("bad-parameters", f"after: {after} is no cursor of this list")
