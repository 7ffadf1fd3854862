"""The documentation as a whole: what it shows can be used, and what it points to is there."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click
import pytest
from ruamel.yaml import YAML

from rdpbalancer import cli
from rdpbalancer.settings.load import load, loads
from tests.unit.packaging.pages import DOCS, REPOSITORY, Block, blocks, pages
from tests.unit.packaging.test_metrics_page import exposed_names

_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_PROMPT = re.compile(r"^[$#] (.*)$", re.MULTILINE)
_METRIC = re.compile(r"\brdpbalancer_[a-z0-9_]+\b")
_MAKE = re.compile(r"(?:`|^\$ |^)make ([a-z][a-z-]*)", re.MULTILINE)
_FILE = re.compile(r"`((?:rdpbalancer|tests|benchmarks|config|docs|requirements|\.ci)/[\w./*-]+)`")
_DECISION = re.compile(r"\b[Dd]ecisions?[ /](\d{4})\b")
# Words before the program's name: who runs it, and where.
_PREFIXES: Final = re.compile(r"^(?:sudo |docker exec \S+ |\S*/(?=rdpbalancer ))+")


def _name(value: object) -> str:
    return str(value)


@pytest.fixture(scope="module", autouse=True)
def _all_commands() -> None:
    if not cli.root.commands:
        cli._add_commands()


# ---- configuration -------------------------------------------------------------------------------------


def _configurations() -> list[Block]:
    return [block for block in blocks("yaml") if re.search(r"^virtual_services:", block.text, re.MULTILINE)]


@pytest.mark.parametrize("block", _configurations(), ids=_name)
def test_a_configuration_that_is_shown_is_good(block: Block) -> None:
    """Every configuration in the documentation can be copied as it stands."""
    assert loads(block.text, name=str(block)).virtual_services


@pytest.mark.parametrize("file", sorted((REPOSITORY / "config").glob("*.yaml")), ids=lambda file: file.name)
def test_a_configuration_that_is_shipped_is_good(file: Path) -> None:
    """Every file of config/ is accepted as it is."""
    assert load(file, environ={}).virtual_services


def test_there_are_configurations_to_check() -> None:
    """The tests above have found something: pages show what they explain."""
    shown = {block.page.name for block in _configurations()}
    assert {"from-haproxy.md", "rd-gateway.md", "configuration.md"} <= shown


@pytest.mark.parametrize("block", blocks("yaml"), ids=_name)
def test_yaml_that_is_shown_is_yaml(block: Block) -> None:
    """What is not ours (Prometheus, Compose) is at least well-formed."""
    assert YAML(typ="safe", pure=True).load(block.text)


# ---- commands ------------------------------------------------------------------------------------------


def _command_lines() -> Iterator[tuple[str, str]]:
    for block in blocks("console"):
        for line in _PROMPT.findall(block.text):
            for part in line.split(" | "):
                command = _PREFIXES.sub("", part)
                if command.startswith("rdpbalancer "):
                    yield f"{block}: {command}", command


def _parse(group: click.Group, arguments: list[str], name: str) -> None:
    """Let click parse a command line without running anything. Raises click.UsageError."""
    context = group.make_context(name, list(arguments))
    rest = [*context._protected_args, *context.args]
    _, command, rest = group.resolve_command(context, rest)
    assert command is not None
    if isinstance(command, click.Group):
        _parse(command, rest, command.name or "")
    else:
        command.make_context(command.name or "", rest, parent=context)


@pytest.mark.parametrize("line", [pytest.param(line, id=where) for where, line in _command_lines()])
def test_a_command_that_is_shown_is_understood(line: str) -> None:
    """Every command line in the documentation names commands, options and arguments that there are."""
    words = shlex.split(line)
    _parse(cli.root, words[1:], words[0])


@pytest.mark.parametrize("line", ["rdpbalancer check --quiet", "rdpbalancer drian ts1", "rdpbalancer drain"])
def test_a_command_that_is_wrong_is_noticed(line: str) -> None:
    """The test above can fail: an option in the wrong place, a misspelt command, a missing argument."""
    with pytest.raises(click.UsageError):
        _parse(cli.root, line.split()[1:], "rdpbalancer")


# ---- links ---------------------------------------------------------------------------------------------


def _anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_links_lead_somewhere(page: Path) -> None:
    """Every link to a page, and to a heading in it, is good."""
    for link in _LINK.findall(page.read_text(encoding="utf-8")):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name}: {link}"
        assert not anchor or anchor in _anchors(target), f"{page.name}: {link}"


def test_every_page_is_in_the_index() -> None:
    """docs/README.md lists every page under its own title."""
    index = (DOCS / "README.md").read_text(encoding="utf-8")
    for page in DOCS.rglob("*.md"):
        if page.name != "README.md":
            title = page.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ")
            assert f"[{title}]({page.relative_to(DOCS)})" in index, page.name


def test_decisions_are_numbered_once_and_listed_in_order() -> None:
    """Two branches may each take the next number: the second one to be merged takes another."""
    pages_ = sorted((DOCS / "decisions").glob("*.md"))
    numbers = [page.name[:4] for page in pages_]
    assert sorted(set(numbers)) == numbers
    for page, number in zip(pages_, numbers, strict=True):
        assert page.read_text(encoding="utf-8").startswith(f"# {number} "), page.name
    index = (DOCS / "README.md").read_text(encoding="utf-8")
    assert numbers == re.findall(r"^- \[(\d{4}) .*\]\(decisions/", index, re.MULTILINE)


# ---- names ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_files_and_targets_that_are_named_exist(page: Path) -> None:
    """A file of the repository, or a target of the Makefile, that was renamed is renamed in the text too."""
    text = page.read_text(encoding="utf-8")
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    assert set() == set(_MAKE.findall(text)) - set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    assert [] == [path for path in _FILE.findall(text) if not any(REPOSITORY.glob(path))]


# ---- metrics -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_metrics_that_are_named_exist(page: Path) -> None:
    """Alert rules and prose name metrics that are exposed, histograms' series included."""
    names = exposed_names()
    known = names | {f"{name}_{part}" for name in names for part in ("bucket", "count", "sum")}
    assert set() == set(_METRIC.findall(page.read_text(encoding="utf-8"))) - known


# ---- decisions -----------------------------------------------------------------------------------------


def test_a_decision_has_a_number_of_its_own() -> None:
    """Its file's, its heading's and nobody else's; and a number that is named somewhere is there."""
    files = sorted((DOCS / "decisions").glob("*.md"))
    numbers = [file.name[:4] for file in files]
    assert sorted(set(numbers)) == numbers
    assert [] == [file.name for file in files if not file.read_text().startswith(f"# {file.name[:4]} ")]
    places = [
        *DOCS.rglob("*.md"),
        *(REPOSITORY / "rdpbalancer").rglob("*.py"),
        *(REPOSITORY / "tests").rglob("*.py"),
    ]
    named = {(number, file.name) for file in places for number in _DECISION.findall(file.read_text())}
    assert len(named) > len(numbers) // 2
    assert set() == {(number, name) for number, name in named if number not in numbers}


# ---- rules of behaviour --------------------------------------------------------------------------------

_RULE = re.compile(r"\bbehaviour(?:\.md)?,? (\d+\.\d+)\b")


def test_rules_of_behaviour_are_numbered_once_and_cited_by_numbers_that_exist() -> None:
    """Code, tests and pages name a rule by its number."""
    page = (DOCS / "reference" / "behaviour.md").read_text(encoding="utf-8")
    numbers = re.findall(r"^\| (\d+\.\d+) \|", page, re.MULTILINE)
    assert sorted(set(numbers), key=lambda number: [int(part) for part in number.split(".")]) == numbers
    texts = [
        *(REPOSITORY / "rdpbalancer").rglob("*.py"),
        *(REPOSITORY / "tests").rglob("*.py"),
        *DOCS.rglob("*.md"),
    ]
    cited = {number for path in texts for number in _RULE.findall(path.read_text(encoding="utf-8"))}
    assert set() == cited - set(numbers)
