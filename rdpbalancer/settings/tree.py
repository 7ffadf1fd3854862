"""The file as a tree in which every key and value knows its place, whatever it is merged with later."""

from dataclasses import dataclass, field
from typing import NamedTuple

from rdpbalancer.settings.problems import KeyPath, SourceLocation

Value = str | int | bool | None


@dataclass(frozen=True, slots=True)
class ScalarNode:
    """One value. `broken`: a problem has been reported for it already, and what it means is unknown."""

    place: SourceLocation
    path: KeyPath
    value: Value
    broken: bool = False


@dataclass(frozen=True, slots=True)
class SequenceNode:
    """A list."""

    place: SourceLocation
    path: KeyPath
    items: "tuple[Node, ...]" = ()


class Entry(NamedTuple):
    """A value of a mapping, and the place of its key."""

    key_place: SourceLocation
    node: "Node"


@dataclass(frozen=True, slots=True)
class MappingNode:
    """Keys and values. Nobody changes `entries` once the node is made."""

    place: SourceLocation
    path: KeyPath
    entries: dict[str, Entry] = field(default_factory=dict)

    def get(self, key: str) -> "Node | None":
        """Return the value of `key`, or None if there is no such key."""
        entry = self.entries.get(key)
        return None if entry is None else entry.node


Node = ScalarNode | SequenceNode | MappingNode


def plain(node: Node) -> object:
    """Return the values alone, as dicts, lists and scalars."""
    if isinstance(node, MappingNode):
        return {key: plain(entry.node) for key, entry in node.entries.items()}
    if isinstance(node, SequenceNode):
        return [plain(item) for item in node.items]
    return node.value


def at(node: Node | None, *path: str) -> Node | None:
    """Return the value under the keys of `path`, or None where one of them is missing."""
    for key in path:
        node = node.get(key) if isinstance(node, MappingNode) else None
    return node


def items(node: Node | None) -> tuple[Node, ...]:
    """Return a list's items, the one value in place of a list, or nothing."""
    if isinstance(node, SequenceNode):
        return node.items
    return () if node is None else (node,)


def nearest(root: Node, path: KeyPath) -> tuple[Node, KeyPath]:
    """Follow `path` as far as it exists; return the last value and the rest of the path."""
    node = root
    for depth, part in enumerate(path):
        if isinstance(node, MappingNode) and isinstance(part, str) and part in node.entries:
            node = node.entries[part].node
        elif isinstance(node, SequenceNode) and isinstance(part, int) and part < len(node.items):
            node = node.items[part]
        else:
            return node, path[depth:]
    return node, ()
