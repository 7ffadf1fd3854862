"""What is wrong with a configuration, and where: every problem has a file, a line and a column."""

from collections.abc import Iterable
from typing import NamedTuple

from rdpbalancer.errors import ConfigurationError


class SourceLocation(NamedTuple):
    """A place in a file. `line` and `column` count from 1, columns in characters."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


class Problem(NamedTuple):
    """One thing to correct. `path` is that of the key, `virtual_services[0].mode`; empty: the whole file."""

    file: str
    line: int
    column: int
    path: str
    message: str

    def __str__(self) -> str:
        path = f"{self.path}: " if self.path else ""
        return f"{self.file}:{self.line}:{self.column}: {path}{self.message}"


class ConfigurationErrors(ConfigurationError):  # noqa: N818  it is several errors
    """Everything that is wrong with a configuration, in the order of the files and lines."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("configuration", "\n".join(str(problem) for problem in self.problems))


KeyPath = tuple[str | int, ...]


def path_text(path: KeyPath) -> str:
    """Write a path as it is read: `("virtual_services", 0, "name")` is `virtual_services[0].name`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += ("." if text else "") + (part if part.isprintable() else repr(part))
    return text


def problem_at(place: SourceLocation, path: KeyPath, message: str) -> Problem:
    """Make the problem of the value, or key, at `place`."""
    return Problem(place.file, place.line, place.column, path_text(path), message)
