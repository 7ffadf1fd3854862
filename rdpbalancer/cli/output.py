"""What the command line prints: tables on a terminal, plain columns in a pipe, JSON for programs."""

import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_UNREACHABLE = 69
EXIT_WAIT_RAN_OUT = 75
EXIT_CONFIGURATION = 78

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table: the row's key, its heading, and how its values are shown."""

    key: str
    heading: str
    right: bool = False


def print_json(value: Any) -> None:
    """Print a value as JSON."""
    print(json.dumps(value, indent=2 if sys.stdout.isatty() else None, ensure_ascii=False))


def print_table(rows: Sequence[dict[str, Any]], columns: Sequence[Column], *, empty: str) -> None:
    """Print rows as a table on a terminal, as tab-separated text with a heading elsewhere."""
    if not sys.stdout.isatty():
        print("\t".join(column.heading for column in columns))
        for row in rows:
            print("\t".join(shown(row.get(column.key)) for column in columns))
        return
    if not rows:
        print(empty)
        return
    _print_rich(rows, columns)


def _print_rich(rows: Sequence[dict[str, Any]], columns: Sequence[Column]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column.heading, justify="right" if column.right else "left")
    for row in rows:
        table.add_row(
            *(Text(shown(row.get(column.key)), style=_style(row.get(column.key))) for column in columns)
        )
    Console(no_color=bool(os.environ.get("NO_COLOR")), highlight=False).print(table)


def _style(value: Any) -> str:
    if value in ("down", "failed", "error"):
        return "bold red"
    if value in ("drain", "drain (strict)", "halt", "checking", "warning"):
        return "yellow"
    return "green" if value in ("up", "online") else ""


def shown(value: Any) -> str:
    """Return a value as text for a person, within one line and one column.

    Users' names are strangers' bytes: what would steer a terminal is shown as an escape.
    """
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list):
        return ", ".join(map(shown, value))
    text = str(value)
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text
    )


def counted(count: int, noun: str) -> str:
    """Return a count with its noun, "1 session" or "2 sessions"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


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


def complain(message: str) -> None:
    """Print an error for a person."""
    print(f"rdpbalancer: {message}", file=sys.stderr)
