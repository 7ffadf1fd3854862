"""Puts the files together, then `defaults` into every service and the service's checks into every server."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from rdpbalancer.settings.problems import Place, Problem, problem_at
from rdpbalancer.settings.service import ServiceDefaults
from rdpbalancer.settings.tree import Entry, Mapping, Node, Scalar, Sequence, at, plain
from rdpbalancer.settings.words import shown, unknown_key

SECTIONS: Final = ("global", "defaults", "virtual_services")


def combine(roots: list[Mapping], *, complete: bool) -> tuple[Mapping, list[Problem]]:
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
        sections.setdefault("virtual_services", Entry(place, Scalar(place, (), None, broken=True)))
    return Mapping(roots[0].place, (), sections), problems


def _sections(root: Mapping, problems: list[Problem]) -> Iterator[tuple[str, Entry]]:
    for key, entry in root.entries.items():
        node = entry.node
        wanted, name = (
            (Sequence, "a list") if key == "virtual_services" else (Mapping, "a mapping (key: value)")
        )
        if key not in SECTIONS:
            problems.append(problem_at(entry.key_place, (key,), unknown_key(key, SECTIONS)))
        elif isinstance(node, wanted) or (isinstance(node, Scalar) and node.broken):
            yield key, entry
        else:
            problems.append(problem_at(node.place, (key,), f"expected {name}, got {shown(plain(node))}"))
            yield key, entry._replace(node=Scalar(node.place, (key,), None, broken=True))


def _joined(first: Entry, second: Entry, problems: list[Problem]) -> Entry:
    """Join a section of two files; where one of them is broken, the other is still worth checking."""
    one, two = first.node, second.node
    if isinstance(one, Sequence) and isinstance(two, Sequence):
        return first._replace(node=replace(one, items=one.items + two.items))
    if isinstance(one, Mapping) and isinstance(two, Mapping):
        return _merged(first, second, problems)
    return second if isinstance(one, Scalar) else first


def _merged(first: Entry, second: Entry, problems: list[Problem]) -> Entry:
    one, two = first.node, second.node
    if not (isinstance(one, Mapping) and isinstance(two, Mapping)):
        message = f"already set at {first.key_place}; keep one of the two"
        problems.append(problem_at(second.key_place, two.path, message))
        return first
    entries = dict(one.entries)
    for key, entry in two.entries.items():
        entries[key] = _merged(entries[key], entry, problems) if key in entries else entry
    return first._replace(node=replace(one, entries=entries))


def inherit(root: Mapping) -> Mapping:
    """Merge `defaults` into every service, and each service's check and agent into its servers."""
    services = root.get("virtual_services")
    if not isinstance(services, Sequence):
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
    if not (isinstance(base, Mapping) and isinstance(over, Mapping)):
        return over
    entries = dict(base.entries)
    for key, entry in over.entries.items():
        under = entries.get(key)
        entries[key] = entry if under is None else entry._replace(node=overlay(under.node, entry.node))
    return replace(over, entries=entries)


def _shared(defaults: Node | None) -> Mapping | None:
    """Keep what `defaults` may hold: another key is reported at its place, not in every service."""
    if not isinstance(defaults, Mapping):
        return None
    known = ServiceDefaults.model_fields
    return replace(defaults, entries={key: entry for key, entry in defaults.entries.items() if key in known})


def _service(item: Node, defaults: Mapping | None) -> Node:
    if not isinstance(item, Mapping):
        return item
    service = overlay(defaults, item) if defaults is not None else item
    mode = at(service, "mode")
    if isinstance(mode, Scalar) and mode.value == "tcp":
        service = overlay(_tcp_defaults(mode.place), service)
    if not isinstance(service, Mapping) or not isinstance(servers := service.get("real_servers"), Sequence):
        return service
    items = tuple(_server(server, service) for server in servers.items)
    entry = service.entries["real_servers"]
    return replace(
        service,
        entries={**service.entries, "real_servers": entry._replace(node=replace(servers, items=items))},
    )


def _tcp_defaults(place: Place) -> Mapping:
    """What a service in mode tcp has unless it says otherwise: it sees no cookie and speaks no RDP."""

    def mapping(key: str, node: Node) -> Mapping:
        return Mapping(place, (), {key: Entry(place, node)})

    return Mapping(
        place,
        (),
        {
            "persistence": Entry(place, mapping("methods", Sequence(place, ()))),
            "health_check": Entry(place, mapping("type", Scalar(place, (), "tcp"))),
        },
    )


def _server(server: Node, service: Mapping) -> Node:
    if not isinstance(server, Mapping):
        return server
    entries = dict(server.entries)
    for key in ("health_check", "feedback_agent"):
        entry = service.entries.get(key)
        if entry is None:
            continue
        own = entries.get(key)
        entries[key] = entry if own is None else own._replace(node=overlay(entry.node, own.node))
    return replace(server, entries=entries)
