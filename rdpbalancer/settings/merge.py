"""Puts the files together, then `defaults` into every service and the service's checks into every server."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from rdpbalancer.settings.error_text import shown, unknown_key
from rdpbalancer.settings.problems import Problem, SourceLocation, problem_at
from rdpbalancer.settings.service import ServiceDefaults
from rdpbalancer.settings.tree import Entry, MappingNode, Node, ScalarNode, SequenceNode, at, plain

SECTIONS: Final = ("global", "defaults", "virtual_services")


def combine(roots: list[MappingNode], *, complete: bool) -> tuple[MappingNode, list[Problem]]:
    """Make one tree of those of the files: lists of services are appended, mappings merged deep.

    A value that two files set is a problem: which one holds would depend on the names of the files.
    Not `complete`: a file could not be read, and the services may all be in that one.
    """
    problems: list[Problem] = []
    sections: dict[str, Entry] = {}
    for root in roots:
        for key, entry in _sections(root, problems):
            sections[key] = _joined(sections[key], entry, problems) if key in sections else entry
    if not complete:
        place = roots[0].place
        sections.setdefault("virtual_services", Entry(place, ScalarNode(place, (), None, broken=True)))
    return MappingNode(roots[0].place, (), sections), problems


def _sections(root: MappingNode, problems: list[Problem]) -> Iterator[tuple[str, Entry]]:
    for key, entry in root.entries.items():
        node = entry.node
        wanted, name = (
            (SequenceNode, "a list") if key == "virtual_services" else (MappingNode, "a mapping (key: value)")
        )
        if key not in SECTIONS:
            problems.append(problem_at(entry.key_place, (key,), unknown_key(key, SECTIONS)))
        elif isinstance(node, wanted) or (isinstance(node, ScalarNode) and node.broken):
            yield key, entry
        else:
            problems.append(problem_at(node.place, (key,), f"expected {name}, got {shown(plain(node))}"))
            yield key, entry._replace(node=ScalarNode(node.place, (key,), None, broken=True))


def _joined(first: Entry, second: Entry, problems: list[Problem]) -> Entry:
    """Join a section of two files; where one of them is broken, the other is still worth checking."""
    one, two = first.node, second.node
    if isinstance(one, SequenceNode) and isinstance(two, SequenceNode):
        return first._replace(node=replace(one, items=one.items + two.items))
    if isinstance(one, MappingNode) and isinstance(two, MappingNode):
        return _merged(first, second, problems)
    return second if isinstance(one, ScalarNode) else first


def _merged(first: Entry, second: Entry, problems: list[Problem]) -> Entry:
    one, two = first.node, second.node
    if not (isinstance(one, MappingNode) and isinstance(two, MappingNode)):
        message = f"already set at {first.key_place}; keep one of the two"
        problems.append(problem_at(second.key_place, two.path, message))
        return first
    entries = dict(one.entries)
    for key, entry in two.entries.items():
        entries[key] = _merged(entries[key], entry, problems) if key in entries else entry
    return first._replace(node=replace(one, entries=entries))


def inherit(root: MappingNode) -> MappingNode:
    """Merge `defaults` into every service, and each service's check and agent into its servers."""
    services = root.get("virtual_services")
    if not isinstance(services, SequenceNode):
        return root
    defaults = _shared(root.get("defaults"))
    items = tuple(_service(item, defaults) for item in services.items)
    entry = root.entries["virtual_services"]
    return replace(
        root,
        entries={**root.entries, "virtual_services": entry._replace(node=replace(services, items=items))},
    )


def overlay(base: Node, over: Node) -> Node:
    """Lay `over` on `base`: mappings are merged deep, any other value of `over` wins."""
    if not (isinstance(base, MappingNode) and isinstance(over, MappingNode)):
        return over
    entries = dict(base.entries)
    for key, entry in over.entries.items():
        under = entries.get(key)
        entries[key] = entry if under is None else entry._replace(node=overlay(under.node, entry.node))
    return replace(over, entries=entries)


def _shared(defaults: Node | None) -> MappingNode | None:
    """Keep what `defaults` may hold: another key is reported at its place, not in every service."""
    if not isinstance(defaults, MappingNode):
        return None
    known = ServiceDefaults.model_fields
    return replace(defaults, entries={key: entry for key, entry in defaults.entries.items() if key in known})


def _service(item: Node, defaults: MappingNode | None) -> Node:
    if not isinstance(item, MappingNode):
        return item
    service = overlay(defaults, item) if defaults is not None else item
    mode = at(service, "mode")
    if isinstance(mode, ScalarNode) and mode.value == "tcp":
        service = overlay(_tcp_defaults(mode.place), service)
    if not isinstance(service, MappingNode) or not isinstance(
        servers := service.get("real_servers"), SequenceNode
    ):
        return service
    items = tuple(_server(server, service) for server in servers.items)
    entry = service.entries["real_servers"]
    return replace(
        service,
        entries={**service.entries, "real_servers": entry._replace(node=replace(servers, items=items))},
    )


def _tcp_defaults(place: SourceLocation) -> MappingNode:
    """What a service in mode tcp has unless it says otherwise: it sees no cookie and speaks no RDP."""

    def mapping(key: str, node: Node) -> MappingNode:
        return MappingNode(place, (), {key: Entry(place, node)})

    return MappingNode(
        place,
        (),
        {
            "persistence": Entry(place, mapping("methods", SequenceNode(place, ()))),
            "health_check": Entry(place, mapping("type", ScalarNode(place, (), "tcp"))),
        },
    )


def _server(server: Node, service: MappingNode) -> Node:
    if not isinstance(server, MappingNode):
        return server
    entries = dict(server.entries)
    for key in ("health_check", "feedback_agent"):
        entry = service.entries.get(key)
        if entry is None:
            continue
        own = entries.get(key)
        entries[key] = entry if own is None else own._replace(node=overlay(entry.node, own.node))
    return replace(server, entries=entries)
