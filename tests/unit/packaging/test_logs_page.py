"""docs/reference/logs.md against what the code logs."""

import ast
from collections import defaultdict
from collections.abc import Iterator
from typing import Final

import msgspec

from rdpbalancer.model import CloseReason, CloseSide, Reason
from rdpbalancer.telemetry.account import SessionClosed
from rdpbalancer.telemetry.log_output import Line
from tests.unit.packaging.pages import DOCS, REPOSITORY, codes, first_codes, rows, section

_PAGE: Final = DOCS / "reference" / "logs.md"
# How structlog calls the level of a method.
_LEVELS: Final = {
    "debug": "debug",
    "info": "info",
    "warning": "warning",
    "error": "error",
    "exception": "error",
}
_LOGGERS: Final = ("events", "_log", "logs.get()")


def _logged() -> dict[str, set[str]]:
    """Return the levels of every event that the service's code logs, by the event's name."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    for path in (REPOSITORY / "rdpbalancer").rglob("*.py"):
        if "lab" in path.parts:
            continue  # simulated servers log nothing into the service's log
        for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                for event, levels in _events_of(function):
                    found[event] |= levels
    for line in Line.__subclasses__():
        if not line.__module__.startswith("rdpbalancer."):
            continue  # of other tests
        shape = {field.name: field.default for field in msgspec.structs.fields(line)}
        found[shape["event"]].add(shape["level"])
    return found


def _events_of(function: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[tuple[str, set[str]]]:
    """Yield the events of `log.info("name")`, and of `told = log.info if ok else log.error; told("name")`."""
    chosen: dict[str, set[str]] = {}
    for node in ast.walk(function):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            levels = {level for leaf in ast.walk(node.value) if (level := _level(leaf))}
            if levels:
                chosen[node.targets[0].id] = levels
    for node in ast.walk(function):
        if not isinstance(node, ast.Call) or not node.args:
            continue
        if level := _level(node.func):
            levels = {level}
        elif isinstance(node.func, ast.Name) and node.func.id in chosen:
            levels = chosen[node.func.id]
        else:
            continue
        for leaf in _branches(node.args[0]):
            if isinstance(leaf, ast.Constant):
                yield str(leaf.value), levels


def _level(node: ast.AST) -> str | None:
    """Return the level of a logger's method, None for anything else."""
    if not isinstance(node, ast.Attribute) or not ast.unparse(node.value).endswith(_LOGGERS):
        return None
    return _LEVELS.get(node.attr)


def _branches(node: ast.expr) -> list[ast.expr]:
    return [node.body, node.orelse] if isinstance(node, ast.IfExp) else [node]


def _events_table() -> list[list[str]]:
    return rows(section(_PAGE, "## Events"))


def test_every_event_is_documented() -> None:
    """The events on the page are those of the code, and no others."""
    assert sorted(_logged()) == sorted(first_codes(_events_table()))


def test_levels_are_those_of_the_code() -> None:
    """An event's level on the page is one that the code logs it with."""
    logged = _logged()
    told = {codes(row[0])[0]: set(row[1].split(", ")) for row in _events_table()}
    wrong = {event: levels for event, levels in told.items() if not levels <= logged[event]}
    assert {} == wrong


def test_the_session_record_is_documented() -> None:
    """Every field of `session_closed` has its line, and no line is of a field that is gone."""
    fields = set(SessionClosed.__struct_fields__) - set(Line.__struct_fields__)
    record = section(_PAGE, "## The session record").partition("\n### ")[0]
    assert sorted(fields) == sorted(first_codes(rows(record)))


def test_the_words_of_the_session_record_are_documented() -> None:
    """Close reasons have a table; sides and routing reasons stand with their fields."""
    assert sorted(CloseReason) == sorted(first_codes(rows(section(_PAGE, "### close_reason"))))
    record = codes(section(_PAGE, "## The session record"))
    assert {*CloseSide, *Reason} <= set(record)
