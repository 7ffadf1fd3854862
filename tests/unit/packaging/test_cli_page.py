"""docs/reference/cli.md against click's own list."""

import re
from typing import Final

import click
import pytest

from rdpbalancer import cli
from rdpbalancer.cli import output
from rdpbalancer.lab.agent import AgentMode
from rdpbalancer.lab.conversations import BEHAVIOURS
from rdpbalancer.lab.faults import LabFault
from rdpbalancer.lab.security import SECURITY
from tests.unit.packaging.pages import DOCS, codes, first_codes, rows, section

_PAGE: Final = DOCS / "reference" / "cli.md"


def _commands() -> dict[str, click.Command]:
    """Return every command that does something, by its whole name."""
    if not cli.root.commands:
        cli._add_commands()
    return dict(_below(cli.root, "rdpbalancer"))


def _below(group: click.Group, path: str) -> list[tuple[str, click.Command]]:
    found: list[tuple[str, click.Command]] = []
    for name, command in group.commands.items():
        here = f"{path} {name}"
        found += _below(command, here) if isinstance(command, click.Group) else [(here, command)]
    return found


def _options(command: click.Command) -> set[str]:
    """Return how the options are written, `--help` and hidden ones left out."""
    options = [param for param in command.params if isinstance(param, click.Option) and not param.hidden]
    return {name for option in options for name in option.opts}


def _documented(text: str) -> set[str]:
    words = [word for code in first_codes(rows(text)) for word in code.split()]
    return {word for word in words if word.startswith("-")}


def test_every_command_is_documented() -> None:
    """Each command has a section, and no section is of a command that is gone."""
    headings = re.findall(r"^## `(rdpbalancer .*)`$", _PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(_commands()) == sorted(headings)


@pytest.mark.parametrize("name", sorted(_commands()))
def test_every_option_is_documented(name: str) -> None:
    """The options in a command's section are those that click knows."""
    assert _options(_commands()[name]) == _documented(section(_PAGE, f"## `{name}`"))


@pytest.mark.parametrize("name", sorted(_commands()))
def test_every_argument_is_documented(name: str) -> None:
    """Arguments are named in the section's text, in capitals as in the help."""
    arguments = [param for param in _commands()[name].params if isinstance(param, click.Argument)]
    text = " ".join(codes(section(_PAGE, f"## `{name}`").split("\n| ")[0]))
    assert [] == [a.human_readable_name for a in arguments if a.human_readable_name not in text]


def test_the_options_before_the_command_are_documented() -> None:
    """So are those of the program itself."""
    before = _PAGE.read_text(encoding="utf-8").partition("\n## ")[0]
    assert _options(cli.root) | {"-h", "--help"} == _documented(before)


def test_exit_codes_are_documented() -> None:
    """Every exit code that the command line knows is explained."""
    codes_ = {value for name, value in vars(output).items() if name.startswith("EXIT_")}
    table = rows(section(_PAGE, "## Exit codes"))
    assert {0, *codes_} == {int(row[0]) for row in table}


def test_the_words_of_the_simulated_parts_are_documented() -> None:
    """Options that take a word from a list have the whole list on the page."""
    server = codes(section(_PAGE, "## `rdpbalancer lab server`"))
    assert {*LabFault, *BEHAVIOURS, *SECURITY} <= set(server)
    assert set(AgentMode) <= set(codes(section(_PAGE, "## `rdpbalancer lab agent`")))
