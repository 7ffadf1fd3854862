"""Tables for a terminal: whole words in whatever width there is.

Nothing is ever cut: a name, a key or an address that is shown in part cannot be copied into the next command.
What does not fit gives way in this order:

1. columns that tell nothing (every value is the ordinary one) are left out;
2. columns with a `rank` leave the line, dropped or folded onto a second line: first those that tell something
   of few rows, then the highest rank;
3. a few cells that are longer than the rest of their column push what follows onto the next line.

A cell that is longer than the whole line is written on a line of its own, without a break: the terminal
breaks it, and a selection with the mouse joins it again.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from rdpbalancer.cli.escape import escaped

Row = Mapping[str, Any]

GAP: Final = 2
DETAIL_INDENT: Final = 4  # of a folded line, from the beginning of its row
# One name of sixty characters among two hundred shall not fold every row: so many rows may be longer.
_ORDINARY: Final = 0.9

_STYLES: Final = {
    "down": "red",
    "failed": "red",
    "error": "red",
    "critical": "red",
    "drain": "yellow",
    "drain (strict)": "yellow",
    "halt": "yellow",
    "checking": "yellow",
    "warning": "yellow",
    "up": "green",
    "online": "green",
}


class Piece(NamedTuple):
    """A text on a line, and its style: a name of `terminal.SGR`, or nothing."""

    text: str
    style: str = ""


Line = list[Piece]


@dataclass(frozen=True, slots=True)
class Column:
    """A column: the row's key and its heading.

    `plain`: values that tell nothing; a column that has no others is left out. `rank`: leaves the line before
    columns of a lower rank, 0 stays. `fold`: then it goes to a second line, else it is dropped. `text`: words
    of their own need no heading on that line.
    """

    key: str
    heading: str
    right: bool = False
    plain: tuple[Any, ...] | None = None
    rank: int = 0
    fold: bool = True
    text: bool = False
    style: Callable[[Row], str] | None = None

    def cells(self, row: Row) -> list[str]:
        """Return what stands in this column: one text, or several below each other."""
        value = row.get(self.key)
        if self.text and not value:
            return [""]
        return list(map(shown, value)) or ["-"] if isinstance(value, list | tuple) else [shown(value)]

    def style_of(self, row: Row) -> str:
        """Return the style of its cell."""
        if self.style is not None:
            return self.style(row)
        value = row.get(self.key)
        return _STYLES.get(value, "") if isinstance(value, str) else ""


@dataclass(frozen=True, slots=True)
class Layout:
    """Which columns stand on the line, how wide, and which are folded below it."""

    columns: tuple[Column, ...]
    widths: tuple[int, ...]
    folded: tuple[Column, ...] = ()
    dropped: tuple[Column, ...] = ()
    width: int = 80
    indent: int = 0
    starts: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        starts, at = [], self.indent
        for width in self.widths:
            starts.append(at)
            at += width + GAP
        object.__setattr__(self, "starts", tuple(starts))

    def heading(self) -> Line:
        """Return the headings."""
        cells = [[column.heading] for column in self.columns]
        return [Piece(piece.text, "heading") for piece in self._lines(cells, [""] * len(cells))[0]]

    def row(self, row: Row) -> Iterator[Line]:
        """Return a row's lines."""
        cells = [column.cells(row) for column in self.columns]
        below = list(self.folded)
        for number, column in enumerate(self.columns):
            if column.text and max(map(cell_width, cells[number])) > self.widths[number]:
                cells[number] = []  # a sentence may be broken, and has more room below
                below.append(column)
        yield from self._lines(cells, [column.style_of(row) for column in self.columns])
        yield from self._below(row, below)

    def _lines(self, cells: Sequence[list[str]], styles: Sequence[str]) -> list[Line]:
        lines: list[Line] = []
        for deep in range(max(map(len, cells), default=0)):
            writer = _Writer(self.width)
            for number, texts in enumerate(cells):
                if deep >= len(texts):
                    continue
                text, room = texts[deep], self.widths[number]
                pad = max(0, room - cell_width(text)) if self.columns[number].right else 0
                writer.put(self.starts[number] + pad, Piece(text, styles[number]), indent=self.indent)
            lines += writer.lines()
        return lines

    def _below(self, row: Row, columns: Sequence[Column]) -> Iterator[Line]:
        """Return columns below their row: sentences first, on lines of their own, then what has a heading."""
        indent = self.indent + DETAIL_INDENT
        labelled = []
        for column in columns:
            texts = column.cells(row)
            if texts in (["-"], [""]) or (column.plain is not None and row.get(column.key) in column.plain):
                continue
            if column.text:
                style = column.style_of(row)
                for text in texts:
                    yield from wrapped(text, width=self.width, indent=indent, style=style)
            else:
                labelled.append(f"{column.heading.lower()} {', '.join(texts)}")
        writer = _Writer(self.width)
        for text in labelled:
            writer.put(max(indent, writer.at + GAP if writer.at else 0), Piece(text, "dim"), indent=indent)
        yield from writer.lines()


class _Writer:
    """Puts texts at their columns, and goes to the next line where the last one reached too far."""

    def __init__(self, width: int) -> None:
        self._width = width
        self._lines: list[Line] = []
        self._line: Line = []
        self.at = 0

    def put(self, start: int, piece: Piece, *, indent: int) -> None:
        """Write `piece` at column `start` if it can stand there, else where it can."""
        taken = self.at > 0 and start < self.at + GAP
        length = cell_width(piece.text)
        if taken or (self._line and start + length > self._width):
            self._break()
        if start + length > self._width:  # nothing to its left: it may begin further left
            start = max(0, min(indent, self._width - length))
        self._line += [Piece(" " * (start - self.at)), piece] if start > self.at else [piece]
        self.at = start + length

    def lines(self) -> list[Line]:
        """Return all lines."""
        self._break()
        return self._lines

    def _break(self) -> None:
        if self._line:
            self._lines.append(self._line)
        self._line, self.at = [], 0


def shown(value: Any) -> str:
    """Return a value as text for a person, within one line and one column."""
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return ", ".join(map(shown, value))
    return escaped(str(value))


def cell_width(text: str) -> int:
    """Return how many columns of a terminal a text takes: a wide character two, a combining one none."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def layout(
    rows: Sequence[Row], columns: Iterable[Column], *, width: int, indent: int = 0, everything: bool = False
) -> Layout:
    """Return how to lay `rows` out in `width` columns. `everything`: what would be dropped is folded."""
    kept = [column for column in columns if _tells(column, rows)]
    lengths = {column.key: sorted(max(map(cell_width, column.cells(row))) for row in rows) for column in kept}
    gone: list[Column] = []
    while True:
        widths = _widths(kept, lengths, width - indent)
        leavers = [column for column in kept if column.rank]
        if widths is not None or not leavers:
            break
        leaver = max(leavers, key=lambda column: (_seldom(column, rows), column.rank))
        kept.remove(leaver)
        gone.append(leaver)
    if widths is None:
        widths = _squeezed(kept, lengths, width - indent)
    gone.sort(key=lambda column: column.rank)
    return Layout(
        tuple(kept),
        tuple(widths),
        folded=tuple(column for column in gone if column.fold or everything),
        dropped=tuple(column for column in gone if not (column.fold or everything)),
        width=width,
        indent=indent,
    )


def wrapped(text: str, *, width: int, indent: int, style: str = "") -> Iterator[Line]:
    """Return a text for people on lines that begin at `indent`; broken between words only."""
    writer = _Writer(width)
    words: list[str] = []
    length = 0
    for word in text.split(" "):
        size = cell_width(word)
        if words and indent + length + 1 + size > width:
            writer.put(indent, Piece(" ".join(words), style), indent=indent)
            words, length = [], 0
        length += size + bool(words)
        words.append(word)
    writer.put(indent, Piece(" ".join(words), style), indent=indent)
    yield from writer.lines()


def _tells(column: Column, rows: Sequence[Row]) -> bool:
    return column.plain is None or any(row.get(column.key) not in column.plain for row in rows)


def _seldom(column: Column, rows: Sequence[Row]) -> bool:
    """Whether a folded column takes a second line of few rows only."""
    if column.plain is None or not column.fold:
        return False
    return sum(row.get(column.key) not in column.plain for row in rows) <= len(rows) * (1 - _ORDINARY)


def _widths(columns: Sequence[Column], lengths: Mapping[str, list[int]], room: int) -> list[int] | None:
    """Return widths that hold nine of ten cells of each column, and more where there is room for more.

    None: not even these fit.
    """
    widths = [max(len(column.heading), _percentile(lengths[column.key], _ORDINARY)) for column in columns]
    left = room - sum(widths) - GAP * (len(columns) - 1)
    if left < 0:
        return None
    longest = [max(len(column.heading), *lengths[column.key][-1:]) for column in columns]
    # The column whose longest cell is nearest to fitting gets its room first.
    for number in sorted(range(len(columns)), key=lambda number: longest[number] - widths[number]):
        wish = longest[number] - widths[number]
        if wish <= left:
            widths[number] += wish
            left -= wish
    return widths


def _squeezed(columns: Sequence[Column], lengths: Mapping[str, list[int]], room: int) -> list[int]:
    """Return widths that fit where ordinary ones do not: the fewest cells become longer than their column."""
    widths = [max(len(column.heading), *lengths[column.key][-1:]) for column in columns]
    while sum(widths) + GAP * (len(columns) - 1) > room:
        best, best_cost = None, 0.0
        for number, column in enumerate(columns):
            shorter = [length for length in lengths[column.key] if length < widths[number]]
            to = max(len(column.heading), shorter[-1] if shorter else 0)
            if to < widths[number]:
                cost = (len(lengths[column.key]) - len(shorter)) / (widths[number] - to)
                if best is None or cost < best_cost:
                    best, best_cost = (number, to), cost
        if best is None:
            break  # the headings alone are wider: the lines break where they have to
        widths[best[0]] = best[1]
    return widths


def _percentile(ordered: Sequence[int], share: float) -> int:
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0
