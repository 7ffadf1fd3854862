"""docs/reference/metrics.md against the registry."""

import ast
from typing import Final

import pytest
from prometheus_client.metrics import MetricWrapperBase

from rdpbalancer.core.admission import Refusal
from rdpbalancer.errors import ClientError, NoServerError, ProtocolError, RdpBalancerError
from rdpbalancer.model import CloseReason, Intent, Reason, ServerId
from rdpbalancer.net.dial import _CODES, _SHORTAGES
from rdpbalancer.telemetry.metrics import Metrics, ServerGauges, StateSnapshot
from tests.unit.packaging.pages import DOCS, REPOSITORY, codes, first_codes, rows, section

_PAGE: Final = DOCS / "reference" / "metrics.md"
_REASONS: Final = "### Reasons of failed handshakes"
# Errors that end a connection before it is a session; each one's code is a reason.
_ERRORS: Final = {"ProtocolError", "ClientError", "RejectedError", "ServerError", "NoServerError", "Reject"}


def registered() -> dict[str, tuple[str, frozenset[str]]]:
    """Return type and labels of every metric by its exposed name."""
    metrics = Metrics()
    metrics.observe_state(lambda: _SNAPSHOT)
    found: dict[str, tuple[str, frozenset[str]]] = {}
    for family in metrics.registry.collect():
        name = family.name + ("_total" if family.type == "counter" else "")
        found[name] = (family.type, frozenset(label for sample in family.samples for label in sample.labels))
    for collector in metrics.registry._collector_to_names:
        if isinstance(collector, MetricWrapperBase):  # it knows its labels before its first sample
            name = collector._name + ("_total" if collector._type == "counter" else "")
            found[name] = (str(collector._type), frozenset(collector._labelnames))
    return found


_SNAPSHOT: Final = StateSnapshot(
    servers=(ServerGauges(ServerId("s", "t"), True, Intent.ONLINE, 1, 1.0, 1.0, 100),),
    queue_lengths={"s": 1},
    entries={("s", "rdp-cookie"): 1},
    evictions={"s": 1},
    relays={1: 1},
)


def exposed_names() -> set[str]:
    """Return the name of every metric."""
    return set(registered())


def test_every_metric_is_documented_as_it_is() -> None:
    """Names, types and labels on the page are those of the registry, and none is missing on either side."""
    documented = {
        codes(row[0])[0]: (row[1], frozenset(filter(None, row[2].split(", "))))
        for row in rows(_PAGE.read_text(encoding="utf-8"))
        if row[0].startswith("`rdpbalancer_")
    }
    assert registered() == documented


def _row(metric: str) -> set[str]:
    text = _PAGE.read_text(encoding="utf-8")
    return next(set(codes(row[3])) for row in rows(text) if row[0] == f"`{metric}`")


def test_words_in_labels_are_those_of_the_code() -> None:
    """Where the values of a label are a fixed list, the page has the list."""
    assert set(Refusal) <= _row("rdpbalancer_rejected_total")
    assert set(CloseReason) <= _row("rdpbalancer_sessions_closed_total")
    assert set(Reason) <= _row("rdpbalancer_routing_decisions_total")
    assert set(Intent) <= _row("rdpbalancer_server_state")
    assert {*_CODES.values(), *_raised({"net/dial.py"}, {"ServerError"})} <= _row(
        "rdpbalancer_server_connect_failures_total"
    )


def _raised(only: set[str], errors: set[str]) -> set[str]:
    """Return the codes with which these errors are raised in some files of the package, as far as literal.

    A name is followed to what is assigned to it, a call of a function of the file to what it returns.
    """
    found: set[str] = set()
    for name in only:
        tree = ast.parse((REPOSITORY / "rdpbalancer" / name).read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in errors:
                found |= _texts(node.args[0], tree)
    return found


def _texts(value: ast.expr, tree: ast.Module) -> set[str]:
    sources: list[ast.AST] = [value.body, value.orelse] if isinstance(value, ast.IfExp) else [value]
    for leaf in list(sources):
        if isinstance(leaf, ast.Name):
            sources += [
                node.value
                for node in ast.walk(tree)
                if isinstance(node, ast.Assign) and _named(node, leaf.id)
            ]
        elif isinstance(leaf, ast.Call) and isinstance(leaf.func, ast.Name):
            sources += [node for node in tree.body if getattr(node, "name", "") == leaf.func.id]
    returned = [node.value for source in sources for node in ast.walk(source) if isinstance(node, ast.Return)]
    return {text for node in [*sources, *returned] if node is not None for text in _literals(node)}


def _named(node: ast.Assign, name: str) -> bool:
    return any(ast.unparse(target) == name for target in node.targets)


def _literals(node: ast.AST) -> set[str]:
    """Return the strings that an expression can be: itself, or either branch of a condition."""
    if isinstance(node, ast.IfExp):
        return _literals(node.body) | _literals(node.orelse)
    return {node.value} if isinstance(node, ast.Constant) and isinstance(node.value, str) else set()


def _files_of_the_way() -> set[str]:
    """Return the files that a connection passes through on its way to a server."""
    package = REPOSITORY / "rdpbalancer"
    files = {
        str(path.relative_to(package))
        for room in ("net", "session")
        for path in (package / room).glob("*.py")
        if path.name != "listen.py"
    }
    return files | {"wire/request.py", "wire/proxy.py", "core/route.py"}


@pytest.mark.parametrize("error", [ProtocolError, ClientError, NoServerError])
def test_whose_fault_a_reason_is(error: type[RdpBalancerError]) -> None:
    """The page blames whom the log blames: `fault` of `connection_failed`."""
    told = {(code, row[1]) for row in rows(section(_PAGE, _REASONS)) for code in codes(row[0])}
    raised = _raised(_files_of_the_way(), {error.__name__})
    assert raised
    assert set() == {(code, error.fault.value) for code in raised} - told


def test_every_reason_of_a_failed_handshake_is_explained() -> None:
    """The reasons on the page are those that the way of a connection can end with, and no others."""
    raised = _raised(_files_of_the_way(), {*_ERRORS, "RdpBalancerError"})
    # Codes that are computed: what the first bytes look like, what the system says, who may not come in.
    raised |= {"tls", "http", "ssh", "not-tpkt", "error", *_CODES.values(), *_SHORTAGES.values()}
    at_the_door = {Refusal.MAX_SESSIONS, Refusal.MAX_HALF_OPEN}
    raised |= {refusal.value for refusal in set(Refusal) - at_the_door}
    documented = set(first_codes(rows(section(_PAGE, _REASONS))))
    assert raised == documented
