"""The rules that tie values of different keys together.

They work on the merged tree, not on validated values, so that one wrong value does not hide the others.
A value that cannot be understood is passed over here: validation reports it.
"""

import ipaddress
from collections.abc import Iterator

from rdpbalancer.model import Endpoint, Method, Mode, Security
from rdpbalancer.settings.error_text import quoted
from rdpbalancer.settings.loops import loop_problems
from rdpbalancer.settings.problems import Problem, problem_at
from rdpbalancer.settings.tree import MappingNode, Node, ScalarNode, at, items
from rdpbalancer.settings.units import parse_endpoint


def cross_problems(root: MappingNode) -> Iterator[Problem]:
    """Yield what is wrong between the values of the merged tree."""
    services = [item for item in items(root.get("virtual_services")) if isinstance(item, MappingNode)]
    yield from _duplicates(
        [at(service, "name") for service in services], "the name", "another virtual service"
    )
    yield from _listen_conflicts(root, services)
    yield from loop_problems(services)
    for service in services:
        yield from _service_problems(service)


def _service_problems(service: MappingNode) -> Iterator[Problem]:
    servers = [item for item in items(service.get("real_servers")) if isinstance(item, MappingNode)]
    methods = items(at(service, "persistence", "methods"))
    yield from _duplicates(list(methods), "the method", "an earlier entry of this list")
    yield from _duplicates([at(server, "name") for server in servers], "the name", "another real server")
    yield from _address_conflicts(servers)
    for server in servers:
        yield from _threshold_problems(server)
    if _text(service.get("mode")) == Mode.TCP:
        yield from _tcp_problems(service, servers)


def _threshold_problems(server: MappingNode) -> Iterator[Problem]:
    """Find a `min_connections` that could never be fallen to, or has nothing to fall from."""
    lower, upper = server.get("min_connections"), server.get("max_connections")
    least, most = _count(lower), _count(upper)
    if lower is None or not least:
        return
    if most and least >= most:
        yield _problem(lower, f"{least} is not below max_connections, {most}: a full server never has fewer")
    elif not most and not isinstance(server.get("feedback_agent"), MappingNode):
        yield _problem(lower, "it has no effect without max_connections: set both, or neither")


def _tcp_problems(service: MappingNode, servers: list[MappingNode]) -> Iterator[Problem]:
    subject = f"virtual service {quoted(_text(service.get('name')) or '')} is in mode tcp"
    for method in items(at(service, "persistence", "methods")):
        if _text(method) in {Method.ROUTING_TOKEN, Method.RDP_COOKIE}:
            yield _problem(
                method, f"{subject}, which reads no cookie: set methods to [source-ip] or [] there"
            )
    for security in items(service.get("require_security")):
        if _text(security) in {Security.TLS, Security.NLA}:
            yield _problem(security, f"{subject}, which reads no request: only 'any' is possible there")
    for owner in (service, *servers):
        for check in items(at(owner, "health_check", "type")):
            if _text(check) == "rdp":
                yield _problem(check, f"{subject}: set the health check's type to tcp or none there")


def _duplicates(nodes: list[Node | None], what: str, whose: str) -> Iterator[Problem]:
    first: dict[object, Node] = {}
    for node in nodes:
        if not isinstance(node, ScalarNode) or node.value is None:
            continue
        earlier = first.setdefault(str(node.value), node)
        if earlier is not node:
            value = quoted(str(node.value))
            yield _problem(node, f"{what} {value} is taken by {whose}, at {earlier.place}: use each once")


def _listen_conflicts(root: MappingNode, services: list[MappingNode]) -> Iterator[Problem]:
    """Find addresses that the system would refuse to listen on twice; port 0 is any free port."""
    nodes = [node for service in services for node in items(service.get("listen"))]
    nodes += items(at(root, "global", "metrics", "listen"))
    seen: dict[tuple[int, bool], list[tuple[Endpoint, Node]]] = {}
    for node in nodes:
        endpoint = _endpoint(node, listening=True)
        if endpoint is None or endpoint.port == 0:
            continue
        others = seen.setdefault((endpoint.port, ":" in endpoint.host), [])
        earlier = next((other for other in others if _overlap(endpoint, other[0])), None)
        if earlier is None:
            others.append((endpoint, node))
        elif earlier[0] == endpoint:
            yield _problem(node, f"{endpoint} is listened on already, at {earlier[1].place}: use it once")
        else:
            yield _problem(
                node, f"{endpoint} overlaps with {earlier[0]}, at {earlier[1].place}: use one of the two"
            )


def _overlap(one: Endpoint, two: Endpoint) -> bool:
    """Say whether one of two addresses of one family contains the other: 0.0.0.0 and :: are all of theirs."""
    everywhere = (ipaddress.ip_address(endpoint.host).is_unspecified for endpoint in (one, two))
    return one.host == two.host or any(everywhere)


def _address_conflicts(servers: list[MappingNode]) -> Iterator[Problem]:
    """Find addresses of two servers: which of them a routing token means could not be told."""
    claims = [(server, node, True) for server in servers for node in items(server.get("address"))]
    claims += [(server, node, False) for server in servers for node in items(server.get("token_addresses"))]
    owners: dict[Endpoint, tuple[MappingNode, Node]] = {}
    for server, node, names in claims:
        endpoint = _endpoint(node, names=names)
        if endpoint is None:
            continue
        owner, earlier = owners.setdefault(endpoint, (server, node))
        if owner is not server:
            yield _problem(
                node, f"{endpoint} belongs to another real server, at {earlier.place}: use it once"
            )


def _endpoint(node: Node, *, names: bool = False, listening: bool = False) -> Endpoint | None:
    try:
        return parse_endpoint(_text(node), names=names, listening=listening)
    except ValueError:
        return None


def _text(node: Node | None) -> str | None:
    return node.value if isinstance(node, ScalarNode) and isinstance(node.value, str) else None


def _count(node: Node | None) -> int:
    """Return a whole number, 0 if it is none: validation says so."""
    value = node.value if isinstance(node, ScalarNode) else 0
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def _problem(node: Node, message: str) -> Problem:
    return problem_at(node.place, node.path, message)
