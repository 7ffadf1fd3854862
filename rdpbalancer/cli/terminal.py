"""Standard output as a terminal: whether it is one, how wide, and its colours."""

import os
import shutil
import sys
from collections.abc import Iterable
from typing import Final

from rdpbalancer.cli.table import Line

SGR: Final = {
    "heading": "1",
    "strong": "1",
    "dim": "2",
    "red": "1;31",
    "yellow": "33",
    "green": "32",
}
_ORDINARY_WIDTH = 80


def is_terminal() -> bool:
    """Whether a person reads standard output as it comes."""
    return sys.stdout.isatty()


def width() -> int:
    """Return how many columns there are: `COLUMNS`, or what the terminal says, or 80."""
    return shutil.get_terminal_size((_ORDINARY_WIDTH, 24)).columns or _ORDINARY_WIDTH


def coloured() -> bool:
    """Whether colours are wanted: https://no-color.org, and not on a terminal that has none."""
    return is_terminal() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def rendered(line: Line, *, colours: bool) -> str:
    """Return a line as a terminal gets it."""
    return "".join(
        f"\x1b[{SGR[piece.style]}m{piece.text}\x1b[0m" if colours and piece.style else piece.text
        for piece in line
    ).rstrip(" ")


def print_lines(lines: Iterable[Line]) -> None:
    """Print lines, each as soon as it is known."""
    colours = coloured()
    for line in lines:
        print(rendered(line, colours=colours))
