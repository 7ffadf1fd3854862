"""What the command line prints: tables on a terminal, plain columns in a pipe, JSON for programs."""

import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TextIO

from rdpbalancer.cli import terminal
from rdpbalancer.cli.escape import escaped, escaped_lines, json_text
from rdpbalancer.cli.table import Column, Layout, Piece, Row, layout, shown

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_UNREACHABLE = 69
EXIT_WAIT_RAN_OUT = 75
EXIT_CONFIGURATION = 78
# A taken port, a folder that is not writable: no mistake in the file, and trying again may help.
PASSING = frozenset({"listen", "folder", "log-file", "state-in-use"})

# The priority of an error, as the journal reads it (sd-daemon).
_JOURNAL_ERROR = "<3>"

# A table's columns are as wide as its first rows need: further ones are not kept waiting, nor in memory.
ROWS_AT_ONCE = 1000

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def say(text: str) -> None:
    """Print lines for a person: what was done, what is so."""
    print(escaped_lines(text), flush=True)


def complain(message: str, *, program: str = "rdpbalancer: ") -> None:
    """Print an error for a person, who may look for it with ``journalctl -p err``."""
    text = f"{program}{escaped_lines(message)}"
    if _journal_reads(sys.stderr):
        text = "\n".join(f"{_JOURNAL_ERROR}{line}" for line in text.splitlines())
    print(text, file=sys.stderr)


def _journal_reads(stream: TextIO) -> bool:
    """Whether systemd's journal reads what is written here (systemd.exec(5), JOURNAL_STREAM)."""
    try:
        status = os.fstat(stream.fileno())
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def print_json(value: Any) -> None:
    """Print a value as JSON: on one line and exact in a pipe, indented and harmless on a terminal."""
    print(json_text(value, indent=2) if terminal.is_terminal() else json.dumps(value, ensure_ascii=False))


def print_json_rows(rows: Iterable[Any]) -> None:
    """Print rows as a JSON list, as `print_json` does, each as it comes."""
    on_terminal, before = terminal.is_terminal(), "["
    for row in rows:
        if on_terminal:
            text = json_text(row, indent=2).replace("\n", "\n  ")
            print(f"{before}\n  {text}", end="")
        else:
            print(f"{before}{json.dumps(row, ensure_ascii=False)}", end="")
        before = "," if on_terminal else ", "
    if before == "[":
        print("[]")
    else:
        print("\n]" if on_terminal else "]")


def print_json_lines(rows: Iterable[Any]) -> None:
    """Print rows as JSON, one a line, each at once: for a list without an end."""
    on_terminal = terminal.is_terminal()
    for row in rows:
        print(json_text(row) if on_terminal else json.dumps(row, ensure_ascii=False), flush=True)


def print_facts(facts: Iterable[tuple[str, str]]) -> None:
    """Print headings and texts beside them: lined up on a terminal, separated by a tab elsewhere."""
    pairs = [(heading, escaped(text)) for heading, text in facts]
    room = max((len(heading) for heading, _ in pairs), default=0)
    for heading, text in pairs:
        print(f"{heading:<{room}}  {text}" if terminal.is_terminal() else f"{heading}\t{text}")


def print_columns(rows: Iterable[Row], columns: Sequence[Column], *, flush: bool = False) -> None:
    """Print rows as tab-separated text under a heading: for programs, so every column, always.

    Not even the heading if the first row cannot be had: it would read as a list that is empty.
    """
    coming = iter(rows)
    first = [] if flush else list(itertools.islice(coming, 1))
    print("\t".join(column.heading for column in columns), flush=flush)
    for row in itertools.chain(first, coming):
        print("\t".join(shown(row.get(column.key)) for column in columns), flush=flush)


def print_table(
    rows: Iterable[Row],
    columns: Sequence[Column],
    *,
    empty: str,
    everything: bool = False,
    heading_of: Callable[[Row], str] | None = None,
    rows_at_once: int = ROWS_AT_ONCE,
) -> None:
    """Print rows as a table for a terminal. `heading_of`: rows with the same stand together under it.

    The columns are as wide as the first `rows_at_once` need; further rows are printed as they come.

    `everything`: columns that have no room are folded below their row where they would be left out.
    """
    dropped: list[str] = []
    last_heading: str | None = None
    plan: Layout | None = None
    coming = iter(rows)
    while chunk := list(itertools.islice(coming, rows_at_once if plan is None else 1)):
        if plan is None:
            indent = 2 if heading_of is not None else 0
            plan = layout(chunk, columns, width=terminal.width(), indent=indent, everything=everything)
            out = {column.heading for column in plan.dropped}
            dropped = [column.heading for column in columns if column.heading in out]
            if heading_of is None:
                terminal.print_lines([plan.heading()])
        for row in chunk:
            if heading_of is not None and (heading := heading_of(row)) != last_heading:
                above = [[Piece("")]] if last_heading is not None else []
                terminal.print_lines([*above, [Piece(escaped(heading), "strong")], plan.heading()])
                last_heading = heading
            terminal.print_lines(plan.row(row))
    if plan is None:
        print(empty)
    elif dropped:
        note = f"not shown: {', '.join(dropped)} (--wide, or a wider terminal)"
        terminal.print_lines([[Piece(note, "dim")]])


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """Return a count with its noun, "1 session" or "2 sessions"."""
    return f"{count} {noun}" if count == 1 else f"{count} {plural or noun + 's'}"


def listed(names: Sequence[str], *, most: int) -> str:
    """Return names for a sentence: at most so many, and how many more there are."""
    if len(names) <= most:
        return ", ".join(names)
    return f"{', '.join(names[:most])} and {len(names) - most} more"


def bytes_text(count: int) -> str:
    """Return a number of bytes for a person."""
    size = float(count)
    for unit in _UNITS:
        if size < 1024 or unit == _UNITS[-1]:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return str(count)


def duration_text(seconds: float) -> str:
    """Return a duration for a person, in its two largest units."""
    whole = max(0, round(seconds))
    days, rest = divmod(whole, 86400)
    hours, rest = divmod(rest, 3600)
    minutes, left = divmod(rest, 60)
    if days:
        return f"{days}d {hours}h"
    if hours:
        return f"{hours}h {minutes:02}m"
    return f"{minutes}m {left:02}s" if minutes else f"{left}s"


def ago_text(unix_time: float) -> str:
    """Return how long ago a Unix time was, for a person."""
    return duration_text(time.time() - unix_time)
