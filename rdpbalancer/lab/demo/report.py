"""The lines of the fixed script: steps, what was checked in each, and how it came out."""

from dataclasses import dataclass, field
from typing import Final

from rich.console import Console
from rich.text import Text

_MARKS: Final = {True: "✓", False: "✗"}
_ASCII_MARKS: Final = {True: "ok", False: "FAILED:"}
_STYLES: Final = {True: "bold green", False: "bold red"}


@dataclass
class Report:
    """Prints as it goes; `problems` are the checks that failed."""

    console: Console
    problems: list[str] = field(default_factory=list)
    _steps: int = 0

    def say(self, text: str, *, style: str = "") -> None:
        """Print a line, however long it is: whoever reads it in a pipe counts on one line."""
        self.console.print(Text(text, style=style), soft_wrap=True)

    def step(self, title: str) -> None:
        """Begin a step."""
        self._steps += 1
        self.console.print(Text(f"{self._steps:2}. {title}", style="bold"), soft_wrap=True)

    def check(self, *, ok: bool, said: str, otherwise: str = "") -> None:
        """Tell what was checked: `said` if it is so, and `otherwise` what is the case instead."""
        marks = _MARKS if self.console.encoding.startswith("utf") else _ASCII_MARKS
        if not ok:
            said = f"not so: {said}" + (f": {otherwise}" if otherwise else "")
            self.problems.append(said)
        line = Text("    ").append(marks[ok], _STYLES[ok]).append(f" {said}")
        self.console.print(line, soft_wrap=True)
