"""What a balancer does with a first packet, seen from outside: for comparing two balancers."""

import contextlib
import socket
import socketserver
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from typing import Final, NamedTuple

from rdpbalancer.model import Endpoint

# HAProxy waits so long for more when it sees no cookie. Far enough from "at once" for a busy machine.
INSPECT_DELAY_S: Final = 2.0
_AT_ONCE_S: Final = 1.5
_PATIENCE_S: Final = 10.0

# Each case has a front of its own on both balancers, so cases do not meet: they may run side by side.
_CASES_AT_ONCE: Final = 16

_CONFIRM_BYTES: Final = 11


class Case(NamedTuple):
    """Two connections, one after the other. `target`: the server that the routing token in both means."""

    name: str
    first: bytes
    second: bytes
    target: int | None = None


class Verdict(StrEnum):
    """How a request was answered."""

    SERVED = "served"  # by a server, at once
    STALLED = "stalled"  # by a server, after the inspect delay
    REFUSED = "refused"  # closed, at once
    EXPIRED = "expired"  # closed, after a deadline
    ALTERED = "altered"  # by a server, which saw other bytes than the client had sent
    SILENT = "silent"  # not answered and not closed


class Placement(StrEnum):
    """Where two connections went."""

    SAME = "same server"
    SPREAD = "two servers"
    TARGET = "the token's server"
    NOWHERE = "no server"


class Outcome(NamedTuple):
    """What one balancer did with a case."""

    verdict: Verdict
    placement: Placement

    def __repr__(self) -> str:
        return f"{self.verdict}, {self.placement}"


class Answer(NamedTuple):
    """What one connection got. `server` counts from 1; None: no server was reached."""

    verdict: Verdict
    server: int | None


def msts(ip: int, port: int, end: str = ".0000") -> bytes:
    """Build a token from the two numbers as they are written, in range or not."""
    return f"Cookie: msts={ip}.{port}{end}".encode()


def numbers(endpoint: Endpoint) -> tuple[int, int]:
    """Return an endpoint's two numbers in a token: address bytes read little-endian, port bytes swapped."""
    (ip,) = struct.unpack("<I", socket.inet_aton(endpoint.host))
    return ip, socket.htons(endpoint.port)


def request(routing: bytes = b"", *, negotiation: bytes = bytes.fromhex("0100080003000000")) -> bytes:
    """Build a Connection Request (X.224 13.3) around the routing text, written without any product code."""
    body = b"\xe0\0\0\0\0\0" + routing + negotiation
    return struct.pack(">BBHB", 3, 0, len(body) + 5, len(body)) + body


class _Handler(socketserver.BaseRequestHandler):
    """Confirms anything, with the server's number as source reference, and gives back what it has seen."""

    def handle(self) -> None:
        number = self.server.number  # type: ignore[attr-defined]
        connection: socket.socket = self.request
        with contextlib.suppress(OSError):  # the other side may leave as it likes
            if seen := connection.recv(65536):
                connection.sendall(struct.pack(">BBHBBHHB", 3, 0, 11, 6, 0xD0, 0, number, 0) + seen)
            while connection.recv(65536):
                pass


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, number: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.number = number


@contextlib.contextmanager
def farm(count: int) -> Iterator[list[Endpoint]]:
    """Run `count` servers that answer every request."""
    servers = [_Server(number) for number in range(1, count + 1)]
    threads = [threading.Thread(target=server.serve_forever, args=(0.05,)) for server in servers]
    for thread in threads:
        thread.start()
    try:
        yield [Endpoint("127.0.0.1", server.server_address[1]) for server in servers]
    finally:
        for server, thread in zip(servers, threads, strict=True):
            server.shutdown()
            thread.join()
            server.server_close()


def ask(front: Endpoint, sent: bytes) -> Answer:
    """Send one request and see what comes of it."""
    began_at = time.monotonic()
    received = b""
    closed = False
    with socket.create_connection(front, timeout=_PATIENCE_S) as connection:
        try:
            connection.sendall(sent)
            while len(received) < _CONFIRM_BYTES + len(sent) and not closed:
                chunk = connection.recv(65536)
                received += chunk
                closed = not chunk
        except TimeoutError:
            return Answer(Verdict.SILENT, None)
        except ConnectionError:
            closed = True
    late = time.monotonic() - began_at > _AT_ONCE_S
    if closed and not received:
        return Answer(Verdict.EXPIRED if late else Verdict.REFUSED, None)
    (number,) = struct.unpack(">H", received[8:10])
    if received[5] != 0xD0 or received[_CONFIRM_BYTES:] != sent:
        return Answer(Verdict.ALTERED, number)
    return Answer(Verdict.STALLED if late else Verdict.SERVED, number)


def try_case(front: Endpoint, case: Case) -> Outcome:
    """Make both connections of a case."""
    first, second = ask(front, case.first), ask(front, case.second)
    assert first.verdict == second.verdict, f"{case.name}: first {first}, then {second}"
    return Outcome(first.verdict, _placement(case, first.server, second.server))


def _placement(case: Case, first: int | None, second: int | None) -> Placement:
    if first is None or second is None:
        return Placement.NOWHERE
    if case.target is not None and first == second == case.target:
        return Placement.TARGET
    return Placement.SAME if first == second else Placement.SPREAD


def try_all(fronts: Sequence[Endpoint], cases: Sequence[Case]) -> dict[str, Outcome]:
    """Try every case on its own front."""
    with ThreadPoolExecutor(_CASES_AT_ONCE) as pool:
        outcomes = pool.map(try_case, fronts, cases)
        return {case.name: outcome for case, outcome in zip(cases, outcomes, strict=True)}
