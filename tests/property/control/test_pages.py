"""Lists in pages: whatever the rows, the sizes of pages and what changes meanwhile."""

import asyncio
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from rdpbalancer.control.pacing import Pacer
from rdpbalancer.control.paging import MAX_ROWS, Group, Listing, Pager, Place

_rows = st.dictionaries(
    st.sampled_from(["gw", "ts", "ts2", ""]),
    st.lists(st.tuples(st.sampled_from(["cookie", "source"]), st.text(max_size=3)), max_size=30),
    max_size=4,
)


class Table:
    """Rows by service; one that is listed twice is one row."""

    def __init__(self, rows: dict[str, list[tuple[str, str]]]) -> None:
        self.rows = rows
        self.gone: set[tuple[str, Place]] = set()

    def groups(self) -> list[Group]:
        """Return the groups in order."""
        return [self._group(name) for name in sorted(self.rows)]

    def _group(self, name: str) -> Group:
        def row(place: Place) -> Any:
            return None if (name, place) in self.gone else [name, *place]

        return Group(name, list(self.rows[name]), lambda item: item, row)

    def all(self) -> list[list[str]]:
        """Return all rows as they have to come."""
        return [[name, *row] for name in sorted(self.rows) for row in sorted(set(self.rows[name]))]


async def read(
    table: Table, *, limit: int, forget: bool = False, between: Any = None
) -> tuple[list[Any], list[int]]:
    """Read all pages; return the rows, and the totals that were told."""
    pager, after, rows, totals = Pager(Pacer()), None, list[Any](), list[int]()
    while True:
        page = await pager.page(Listing("table", table.groups, limit, after))
        assert len(page.rows) <= limit
        rows += [msgspec.json.decode(row) for row in page.rows]
        totals.append(page.total)
        if page.next is None:
            pager.forget()
            return rows, totals
        after = page.next
        if forget:
            pager.forget()  # as after a restart of the router
        if between is not None:
            between(rows)


@given(rows=_rows, limit=st.integers(1, 40), forget=st.booleans())
def test_pages_are_the_list(rows: dict[str, list[tuple[str, str]]], limit: int, *, forget: bool) -> None:
    """Each row once, in order, whether what was sorted is still there for the next page or not."""
    table = Table(rows)
    read_rows, totals = asyncio.run(read(table, limit=limit, forget=forget))
    assert table.all() == read_rows
    assert {sum(map(len, rows.values()))} >= set(totals[:1])


@given(rows=_rows, limit=st.integers(1, 5), forget=st.booleans(), data=st.data())
def test_what_stays_is_shown_once(
    rows: dict[str, list[tuple[str, str]]], limit: int, data: st.DataObject, *, forget: bool
) -> None:
    """Rows come and go between pages: those that are there all the time are shown, each once."""
    table = Table(rows)
    stays = table.all()

    def change(_: list[Any]) -> None:
        name = data.draw(st.sampled_from(sorted(table.rows)))
        if data.draw(st.booleans()):
            table.rows[name].append(data.draw(st.tuples(st.just("cookie"), st.text(max_size=3))))
        elif stays:
            row = data.draw(st.sampled_from(stays))
            stays.remove(row)
            table.gone.add((row[0], tuple(row[1:])))

    read_rows, _ = asyncio.run(read(table, limit=limit, forget=forget, between=change))
    assert all(read_rows.count(row) == 1 for row in stays)
    assert sorted(read_rows) == read_rows
    assert len(read_rows) == len({tuple(row) for row in read_rows})


def test_a_page_is_bounded_in_bytes() -> None:
    """Long rows make short pages; nothing is left out."""
    table = Table({"ts": [("cookie", f"{number:03}" + "x" * 20_000) for number in range(50)]})

    async def sizes() -> list[int]:
        pager, after, counts = Pager(Pacer()), None, list[int]()
        while True:
            page = await pager.page(Listing("table", table.groups, MAX_ROWS, after))
            counts.append(len(page.rows))
            if page.next is None:
                pager.forget()
                return counts
            after = page.next

    counts = asyncio.run(sizes())
    assert 50 == sum(counts)
    assert max(counts) <= 14
