"""Reads YAML 1.2 into a tree with places. Only what a configuration needs: no tags, one document."""

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
    StreamEndEvent,
)

from rdpbalancer.settings.error_text import quoted
from rdpbalancer.settings.files import MAX_FILE_BYTES, FileError
from rdpbalancer.settings.problems import KeyPath, Problem, SourceLocation, problem_at
from rdpbalancer.settings.substitute import Substitution, SubstitutionError
from rdpbalancer.settings.tree import Entry, MappingNode, Node, ScalarNode, SequenceNode, Value

# The schema is six levels deep; the bound keeps a hostile or broken file from exhausting the stack.
MAX_DEPTH: Final = 32
# A megabyte of services is some 40,000 values; the bound is for aliases of aliases, which multiply.
MAX_NODES: Final = 100_000

# YAML 1.2.2, 10.3.2 (core schema). An integer with leading zeros stays text: it is a file mode or a name, and
# readers disagree whether it is octal. Fractions stay text: no key takes a number with a fraction.
_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,17})")
_BASED = re.compile(r"0o[0-7]{1,20}|0x[0-9a-fA-F]{1,15}")
_WORDS: Final[dict[str, Value]] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}


class _Fatal(Exception):  # noqa: N818  not an error of its own: it carries the problem that ends the reading
    """The rest of the file cannot be understood."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem


def read_yaml(text: str, *, file: str, substitution: Substitution) -> tuple[Node | None, list[Problem]]:
    """Return the tree of `text` and what is wrong with it; no tree if it is empty or not YAML.

    Wrong references and duplicate keys do not end the reading: the tree is whole, and the values that
    nothing can be said about are marked as broken.
    """
    if len(text.encode("utf-8", "surrogatepass")) > MAX_FILE_BYTES:
        message = f"longer than {MAX_FILE_BYTES // 1024} KiB: this is not the file that is meant"
        return None, [FileError(message).problem(file)]
    reader = _Reader(text, file, substitution)
    try:
        return reader.document(), reader.problems
    except _Fatal as fatal:
        return None, [*reader.problems, fatal.problem]


def scalar_value(text: str) -> Value:
    """Return what a plain (unquoted) scalar means: nothing, true or false, a whole number, or text."""
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    return int(text, 0) if _BASED.fullmatch(text) else text


class _Reader:
    def __init__(self, text: str, file: str, substitution: Substitution) -> None:
        self.problems: list[Problem] = []
        self._file = file
        self._lines = text.split("\n")
        self._substitution = substitution
        self._events = self._parse(text)
        self._anchors: dict[str, tuple[Node, int]] = {}
        self._nodes = 0

    def document(self) -> Node | None:
        """Return the tree of the only document, or None if the file holds none."""
        next(self._events)  # the stream begins
        start = next(self._events)
        if isinstance(start, StreamEndEvent):
            return None
        if start.version not in {None, (1, 2)}:
            # The version's event has the place of what follows it; the line itself is the first with a %.
            number = next((n for n, line in enumerate(self._lines, 1) if line.startswith("%YAML")), 1)
            raise self._fatal(
                SourceLocation(self._file, number, 1), (), "the file is read as YAML 1.2: remove this line"
            )
        node = self._node(next(self._events), (), 0)
        next(self._events)  # the document ends
        second = next(self._events)
        if isinstance(second, DocumentStartEvent):
            raise self._fatal(
                self._place(second), (), "a second document begins here: a file holds one, remove the '---'"
            )
        return node

    def _node(self, event: Any, path: KeyPath, depth: int) -> Node:
        place = self._place(event)
        self._count(1, place, path)
        if isinstance(event, AliasEvent):
            return self._alias(event, place, path)
        if event.ctag is not None and str(event.ctag):
            raise self._fatal(place, path, f"tags are not used here: remove {quoted(str(event.tag))}")
        if depth > MAX_DEPTH:
            raise self._fatal(place, (), f"nested deeper than {MAX_DEPTH} levels: no key is")
        before = self._nodes
        node: Node
        if isinstance(event, MappingStartEvent):
            node = MappingNode(place, path, self._entries(path, depth))
        elif isinstance(event, SequenceStartEvent):
            node = SequenceNode(place, path, tuple(self._items(path, depth)))
        else:
            node = self._scalar(event, place, path)
        if event.anchor:
            self._anchors[event.anchor] = (node, 1 + self._nodes - before)
        return node

    def _entries(self, path: KeyPath, depth: int) -> dict[str, Entry]:
        entries: dict[str, Entry] = {}
        while not isinstance(event := next(self._events), MappingEndEvent):
            key_place = self._place(event)
            if not isinstance(event, ScalarEvent):
                raise self._fatal(
                    key_place, path, "a key is a single word, not a list, a mapping or an alias"
                )
            key = event.value
            event = next(self._events)
            node = self._node(event, (*path, key), depth + 1)
            if isinstance(event, ScalarEvent) and event.style is None and not event.value:
                # A value that is left out has no place of its own: ruamel gives that of what follows.
                node = replace(node, place=key_place)
            if key in entries:
                message = f"duplicate key: already set at {entries[key].key_place}; keep one of the two"
                self.problems.append(problem_at(key_place, (*path, key), message))
            else:
                entries[key] = Entry(key_place, node)
        return entries

    def _items(self, path: KeyPath, depth: int) -> Iterator[Node]:
        index = 0
        while not isinstance(event := next(self._events), SequenceEndEvent):
            yield self._node(event, (*path, index), depth + 1)
            index += 1

    def _scalar(self, event: Any, place: SourceLocation, path: KeyPath) -> ScalarNode:
        try:
            text, only_reference = self._substitution.expand(event.value)
        except SubstitutionError as error:
            self.problems.append(problem_at(place, path, str(error)))
            return ScalarNode(place, path, None, broken=True)
        if only_reference:
            return ScalarNode(place, path, scalar_value(text.strip()))
        return ScalarNode(place, path, scalar_value(text) if event.style is None else text)

    def _alias(self, event: AliasEvent, place: SourceLocation, path: KeyPath) -> Node:
        if event.anchor not in self._anchors:
            raise self._fatal(
                place,
                path,
                f"the alias *{event.anchor} has no anchor before it: quote a value that begins with *",
            )
        node, size = self._anchors[event.anchor]
        self._count(size, place, path)
        return node

    def _count(self, nodes: int, place: SourceLocation, path: KeyPath) -> None:
        self._nodes += nodes
        if self._nodes > MAX_NODES:
            raise self._fatal(
                place, path, f"more than {MAX_NODES} values up to here: this is not the file that is meant"
            )

    def _place(self, event: Any) -> SourceLocation:
        return SourceLocation(self._file, event.start_mark.line + 1, event.start_mark.column + 1)

    @staticmethod
    def _fatal(place: SourceLocation, path: KeyPath, message: str) -> _Fatal:
        return _Fatal(problem_at(place, path, message))

    def _parse(self, text: str) -> Iterator[Any]:
        """Yield ruamel's events; its errors, of whatever kind, become one problem with a place."""
        yaml = YAML(typ="safe", pure=True)
        end = None
        try:
            for event in yaml.parse(text):
                end = event.end_mark
                yield event
        except MarkedYAMLError as error:
            raise _Fatal(self._syntax_problem(error)) from None
        except YAMLError as error:
            raise _Fatal(self._unacceptable(text, error)) from None
        except (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError):
            # The scanner lets Python's own errors through on some malformed input ("\UFFFFFFFF").
            place = (
                SourceLocation(self._file, end.line + 1, end.column + 1)
                if end
                else SourceLocation(self._file, 1, 1)
            )
            raise self._fatal(place, (), "not YAML: what follows here cannot be read") from None

    def _syntax_problem(self, error: MarkedYAMLError) -> Problem:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark is not None else (1, 1)
        reason = " ".join(f"{error.problem or 'malformed'} {error.context or ''}".split())
        return problem_at(
            SourceLocation(self._file, line, column), (), f"not YAML: {reason}{self._hint(line)}"
        )

    def _hint(self, line: int) -> str:
        text = self._lines[line - 1] if line <= len(self._lines) else ""
        if re.match(r" *\t", text):
            return "; indent with spaces, not with tabs"
        if re.search(r"""(?<!["'])\[[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*\]:""", text):
            return "; put an address that begins with a bracket in quotes"
        return ""

    def _unacceptable(self, text: str, error: YAMLError) -> Problem:
        position = getattr(error, "position", 0)
        before = text[:position]
        place = SourceLocation(self._file, before.count("\n") + 1, len(before) - before.rfind("\n"))
        character = text[position : position + 1]
        return problem_at(place, (), f"not YAML: the character {quoted(character)} may not stand in a file")
