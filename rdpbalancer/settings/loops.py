"""Finds real servers that are the balancer itself: every connection to them would come back, without end.

Apart from the other rules because it alone asks the machine something: which addresses are its own.
"""

import ipaddress
import socket
from collections import defaultdict
from collections.abc import Iterator

from rdpbalancer.model import Endpoint
from rdpbalancer.settings.error_text import quoted
from rdpbalancer.settings.problems import Problem, problem_at
from rdpbalancer.settings.tree import MappingNode, Node, ScalarNode, at, items
from rdpbalancer.settings.units import parse_endpoint

_LOCALHOST = ("127.0.0.1", "::1")

# Where a service listens: the service's number, the address, and its place in the file.
_Listeners = dict[int, list[tuple[int, Endpoint, Node]]]


def loop_problems(services: list[MappingNode]) -> Iterator[Problem]:
    """Yield a problem for each server address that leads a connection back to its own service.

    Directly, or by way of other services. A service behind another one is fine as long as there is an end.
    """
    listeners = _listeners(services)
    leads = [
        (number, listener)
        for number, service in enumerate(services)
        for server in items(service.get("real_servers"))
        for node in items(at(server, "address") if isinstance(server, MappingNode) else None)
        for listener in _reached(node, listeners)
    ]
    next_ones: defaultdict[int, set[int]] = defaultdict(set)
    for number, (_, other, _) in leads:
        next_ones[number].add(other)
    for number, (node, other, where) in leads:
        if other == number:
            yield _problem(node, f"the service itself listens there, at {where.place}: {_ENDLESS}")
        elif number in _within_reach(other, next_ones):
            name = at(services[other], "name")
            called = quoted(str(name.value)) if isinstance(name, ScalarNode) else "without a name"
            there = f"the service {called} listens there, at {where.place}, and leads back to this one"
            yield _problem(node, f"{there}: {_ENDLESS}")


_ENDLESS = "connections would go round without end; write the terminal server's own address"


def _problem(node: Node, message: str) -> Problem:
    return problem_at(node.place, node.path, message)


def _listeners(services: list[MappingNode]) -> _Listeners:
    found: _Listeners = {}
    for number, service in enumerate(services):
        for node in items(service.get("listen")):
            endpoint = _endpoint(node, listening=True)
            if endpoint is not None and endpoint.port:
                found.setdefault(endpoint.port, []).append((number, endpoint, node))
    return found


def _reached(node: Node, listeners: _Listeners) -> Iterator[tuple[Node, int, Node]]:
    """Yield the services that a connection to this server's address would come to, each once."""
    target = _endpoint(node, names=True)
    seen: set[int] = set()
    for number, listening, where in listeners.get(target.port, []) if target is not None else []:
        if target is not None and number not in seen and _listens(listening.host, target.host):
            seen.add(number)
            yield node, number, where


def _listens(host: str, target: str) -> bool:
    """Whether a socket that listens on `host` gets what is sent to `target`, of the same port."""
    targets = _LOCALHOST if target == "localhost" else (target,)
    if host in targets:
        return True
    everywhere = ipaddress.ip_address(host)
    return everywhere.is_unspecified and any(
        (":" in each) == (everywhere.version == 6) and is_own(each) for each in targets
    )


def is_own(host: str) -> bool:
    """Whether `host` is an IP address of this machine.

    Asked of the kernel's routes, by a datagram socket that sends nothing: towards an address of its own a
    machine speaks from that same address. Trying to bind would call every address ours where
    net.ipv4.ip_nonlocal_bind is set, which it is beside a floating address.
    """
    try:
        address = ipaddress.ip_address(host)
    except ValueError:  # a name: what it stands for may change
        return False
    if address.is_loopback:
        return True
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.connect((host, 9))
            return ipaddress.ip_address(sock.getsockname()[0].partition("%")[0]) == address
    except OSError:  # no route, or no such family: not ours
        return False


def _within_reach(start: int, next_ones: dict[int, set[int]]) -> set[int]:
    reached: set[int] = set()
    ahead = [start]
    while ahead:
        for number in next_ones.get(ahead.pop(), ()):
            if number not in reached:
                reached.add(number)
                ahead.append(number)
    return reached


def _endpoint(node: Node, *, names: bool = False, listening: bool = False) -> Endpoint | None:
    text = node.value if isinstance(node, ScalarNode) and isinstance(node.value, str) else None
    try:
        return parse_endpoint(text, names=names, listening=listening)
    except ValueError:
        return None
