"""HAProxy as an oracle: the same packets to both, and every difference is known, with its reason."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

from rdpbalancer.model import Endpoint
from tests.e2e.conftest import StartBalancer
from tests.e2e.differential import (
    INSPECT_DELAY_S,
    Case,
    Outcome,
    Placement,
    Verdict,
    farm,
    msts,
    numbers,
    request,
    try_all,
)
from tests.support.processes import Processes, free_ports
from tests.support.programs import require
from tests.support.vectors import EXCHANGES, VECTORS

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(90)]

_SERVERS: Final = 3

_SERVED_SAME: Final = Outcome(Verdict.SERVED, Placement.SAME)
_SERVED_SPREAD: Final = Outcome(Verdict.SERVED, Placement.SPREAD)
_SERVED_TARGET: Final = Outcome(Verdict.SERVED, Placement.TARGET)
_STALLED: Final = Outcome(Verdict.STALLED, Placement.SPREAD)
_REFUSED: Final = Outcome(Verdict.REFUSED, Placement.NOWHERE)
_EXPIRED: Final = Outcome(Verdict.EXPIRED, Placement.NOWHERE)


class Difference(NamedTuple):
    """Where the two part, on purpose."""

    haproxy: Outcome
    rdpbalancer: Outcome
    reason: str
    cases: tuple[str, ...]


DIFFERENCES: Final = (
    Difference(
        _STALLED,
        _SERVED_SPREAD,
        "a complete request without a cookie: there is nothing to wait for, so the user must not wait",
        ("bare", "ends-with-0d", "lf-only-msts", "sent to a server: cookie w/o CRLF + neg"),
    ),
    Difference(
        _STALLED,
        _SERVED_SAME,
        "a cookie whose line ends without a carriage return is still the user's",
        ("lf-only", "lf-only-no-negotiation"),
    ),
    Difference(
        _SERVED_SAME,
        _SERVED_SPREAD,
        "an empty name is no name: one key for all who send it would put them all on one server",
        ("empty-cookie",),
    ),
    Difference(
        _SERVED_SPREAD,
        _SERVED_SAME,
        "Windows names have no case: `alice` and `ALICE` are one person with one desktop",
        ("another case",),
    ),
    Difference(
        _SERVED_SPREAD,
        _SERVED_SAME,
        "the cookie is read wherever it stands: behind a preconnection PDU, behind a token of no use here",
        ("xf-pcb", "token+cookie"),
    ),
    Difference(
        _SERVED_TARGET,
        _SERVED_SPREAD,
        "a number out of range is no address; cut to size it may name a server by accident",
        ("token, address too large", "token, address negative", "token, port too large"),
    ),
    Difference(
        _STALLED,
        _REFUSED,
        "no connection request, and provably so before the delay is over",
        (
            "rdesktop-DR",
            "sent to a server: DT first",
            "sent to a server: tpkt len 0",
            "sent to a server: tpkt len 4",
        ),
    ),
    Difference(
        _SERVED_SPREAD,
        _REFUSED,
        "another protocol, or nonsense: a terminal server need not see it",
        (
            "http",
            "nmap-lua-LI-wrong",
            "openssl-tls",
            "sent to a server: SSH banner",
            "sent to a server: TLS hello prefix (rebuilt)",
            "ssh",
        ),
    ),
    Difference(
        _SERVED_SAME,
        _REFUSED,
        "malformed: lengths that contradict each other, or what RDP never asks of X.224",
        (
            "LI-255",
            "sent to a server: CDT=1 (0xe1)",
            "sent to a server: LI one long",
            "sent to a server: LI one short",
            "sent to a server: LI overflow 300-char user (rebuilt)",
            "sent to a server: class 2",
        ),
    ),
    Difference(
        _SERVED_SAME,
        _EXPIRED,
        "a request that stays incomplete is nobody's: the handshake's deadline ends it",
        ("scanner-truncated",),
    ),
)


def _cases(servers: Sequence[Endpoint]) -> list[Case]:
    """Every published vector, twice the same; and pairs that tell how keys and tokens are read."""
    ip, port = numbers(servers[-1])
    alice, bob = request(b"Cookie: mstshash=alice\r\n"), request(b"Cookie: mstshash=bob\r\n")
    pairs = {
        "same name": (alice, alice),
        "two names": (alice, bob),
        "another case": (alice, request(b"Cookie: mstshash=ALICE\r\n")),
        "another prefix case": (alice, request(b"cookie: MSTSHASH=alice\r\n")),
        "with a domain": (alice, request(b"Cookie: mstshash=CORP\\alice\r\n")),
        "another security": (alice, request(b"Cookie: mstshash=alice\r\n", negotiation=b"")),
    }
    tokens = {
        "token": msts(ip, port),
        "token, prefix in capitals": msts(ip, port).upper(),
        "token, nothing behind the final dot": msts(ip, port, "."),
        "token, other digits behind the final dot": msts(ip, port, ".1234"),
        "token, no final dot": msts(ip, port, ""),
        "token, padded with a space": msts(ip, port) + b" ",
        "token, address too large": msts(ip + 2**32, port),
        "token, address negative": msts(ip - 2**32, port),
        "token, port too large": msts(ip, port + 2**16),
        "token, another port": msts(ip, 0x0100),
        "token, unknown address": msts(ip + 1, port),
    }
    made = [Case(vector.name, vector.data, vector.data) for vector in VECTORS.values()]
    known = {vector.data for vector in VECTORS.values()}
    further = {exchange.request: exchange.name for exchange in EXCHANGES if exchange.request not in known}
    made += [Case(f"sent to a server: {name}", sent, sent) for sent, name in further.items()]
    made += [Case(name, *pair) for name, pair in pairs.items()]
    for name, token in tokens.items():
        sent = request(token + b"\r\n")
        made.append(Case(name, sent, sent, target=_SERVERS))
    return made


def _haproxy_configuration(fronts: Sequence[Endpoint], servers: Sequence[Endpoint]) -> str:
    """One listener with its own table per case; the farm of an appliance's published RDS configuration."""
    farm_lines = "".join(f"    server ts{n} {server} weight 100\n" for n, server in enumerate(servers, 1))
    listeners = "".join(
        f"listen case{number}\n"
        f"    bind {front}\n"
        f"    tcp-request inspect-delay {INSPECT_DELAY_S:g}s\n"
        "    tcp-request content accept if RDP_COOKIE\n"
        "    persist rdp-cookie\n"
        "    balance roundrobin\n"
        "    stick-table type string len 256 size 1k expire 1h\n"
        "    stick on req.rdp_cookie(mstshash)\n"
        f"{farm_lines}"
        for number, front in enumerate(fronts)
    )
    return (
        "global\n    maxconn 1000\n    nbthread 1\n"
        "defaults\n    mode tcp\n    timeout connect 5s\n    timeout client 20s\n    timeout server 20s\n"
        + listeners
    )


def _service(name: str, servers: Sequence[Endpoint]) -> dict[str, Any]:
    """Return the same farm in our words."""
    return {
        "name": name,
        "mode": "rdp",
        "scheduler": "weighted-round-robin",
        "persistence": {"methods": ["routing-token", "rdp-cookie"]},
        "health_check": {"type": "none"},
        "timeouts": {"handshake": f"{INSPECT_DELAY_S:g}s"},
        "real_servers": [
            {"name": f"ts{number}", "address": str(server), "weight": 100}
            for number, server in enumerate(servers, 1)
        ],
    }


@pytest.fixture
def servers() -> Iterator[list[Endpoint]]:
    """The farm behind both balancers."""
    with farm(_SERVERS) as started:
        yield started


def _from_haproxy(
    cases: Sequence[Case], servers: Sequence[Endpoint], processes: Processes, folder: Path
) -> dict[str, Outcome]:
    program = require("haproxy")
    fronts = [Endpoint("127.0.0.1", port) for port in free_ports(len(cases))]
    configuration = folder / "haproxy.cfg"
    configuration.write_text(_haproxy_configuration(fronts, servers))
    haproxy = processes.start(program, "-db", "-f", str(configuration))
    haproxy.wait_for_port(fronts[-1].port)
    return try_all(fronts, cases)


def _from_rdpbalancer(
    cases: Sequence[Case], servers: Sequence[Endpoint], balancer: StartBalancer
) -> dict[str, Outcome]:
    started = balancer([_service(f"case{number}", servers) for number in range(len(cases))])
    started.wait_usable(len(cases) * len(servers))
    return try_all([started.endpoint(f"case{number}") for number in range(len(cases))], cases)


def test_every_difference_from_haproxy_is_intended(
    servers: list[Endpoint], processes: Processes, balancer: StartBalancer, tmp_path: Path
) -> None:
    """Both choose alike for every packet but those in the table, and every line of the table still shows."""
    require("haproxy")
    cases = _cases(servers)
    theirs = _from_haproxy(cases, servers, processes, tmp_path)
    ours = _from_rdpbalancer(cases, servers, balancer)
    expected = {
        name: (difference.haproxy, difference.rdpbalancer)
        for difference in DIFFERENCES
        for name in difference.cases
    }
    seen = {name: (theirs[name], ours[name]) for name in theirs if theirs[name] != ours[name]}
    assert expected == seen


def test_a_token_reaches_its_server(servers: list[Endpoint], balancer: StartBalancer) -> None:
    """The comparison above would not notice if both ignored tokens and keys alike: these are absolute."""
    wanted = {"token": _SERVED_TARGET, "same name": _SERVED_SAME, "two names": _SERVED_SPREAD}
    cases = [case for case in _cases(servers) if case.name in wanted]
    assert wanted == _from_rdpbalancer(cases, servers, balancer)
