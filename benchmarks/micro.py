"""The small steps of a connection, each by itself: parse, route, claim, pump.

Run with ``make bench-micro`` (pyperf: many processes, mean and deviation). Add ``--fast`` for a first look.
"""

import asyncio
import random
import socket
from time import perf_counter

import pyperf

from rdpbalancer.core.dispatch import Dispatcher, Placed
from rdpbalancer.core.farm import Farm, RealServer, VirtualService
from rdpbalancer.core.health import HealthState
from rdpbalancer.core.status import ServerStatus
from rdpbalancer.model import CloseReason, CloseSide, Endpoint, Health, Key, Method, ServerId
from rdpbalancer.relay.mover import MovedSession
from rdpbalancer.relay.pump import Pump
from rdpbalancer.runtime.loop import loop_factory
from rdpbalancer.stores.memory import MemoryStore
from rdpbalancer.wire.request import parse_request
from rdpbalancer.wire.token import decode_msts

COOKIE = bytes.fromhex(
    "0300002b26e00000000000436f6f6b69653a206d737473686173683d616c6963650d0a0100080003000000"
)
TOKEN = b"Cookie: msts=3640205228.15629.0000"
SERVERS = 10
MESSAGE_BYTES = 100


def dispatcher() -> tuple[Dispatcher, VirtualService]:
    """Return a farm of ten servers, all up."""
    servers = tuple(
        RealServer(ServerId("ts", f"ts{number}"), Endpoint("192.0.2.1", 3389 + number))
        for number in range(SERVERS)
    )
    service = VirtualService("ts", (), servers)
    made = Dispatcher(open_store=lambda _: MemoryStore(max_entries=100_000), rng=random.Random(1))
    made.apply(Farm({"ts": service}), now=0.0)
    for server in servers:
        status = ServerStatus(health=HealthState(Health.UP), addresses=("192.0.2.1",))
        made.servers.set(server.id, status, now=0.0)
    return made, service


def route_new(loops: int) -> float:
    """Time placing users without a key, and releasing their slots."""
    made, service = dispatcher()
    began = perf_counter()
    for _ in range(loops):
        placed, _ = made.place(
            service, source="198.51.100.7", token=None, key=None, excluded=frozenset(), now=1.0
        )
        if isinstance(placed, Placed):
            made.release(placed.slot, now=1.0)
    return perf_counter() - began


def claim_and_confirm(loops: int) -> float:
    """Time placing, confirming and releasing, each time another user."""
    made, service = dispatcher()
    keys = [Key(Method.RDP_COOKIE, f"user{number}") for number in range(10_000)]
    began = perf_counter()
    for number in range(loops):
        key = keys[number % len(keys)]
        placed, _ = made.place(
            service, source="198.51.100.7", token=None, key=key, excluded=frozenset(), now=1.0
        )
        if isinstance(placed, Placed):
            made.bindings.confirm(placed.slot, now=1.0)
            made.release(placed.slot, now=1.0)
    return perf_counter() - began


def pump_round_trips(loops: int) -> float:
    """Time 100-byte round trips through the pump; both ends are driven from the same thread."""
    loop = loop_factory()()
    try:
        return loop.run_until_complete(_round_trips(loops))
    finally:
        loop.close()


async def _round_trips(loops: int) -> float:
    loop = asyncio.get_running_loop()

    def ended(session: MovedSession, reason: CloseReason, side: CloseSide) -> None:
        del session, reason, side

    pump = Pump(loop, ended)
    client, client_side = socket.socketpair()
    server, server_side = socket.socketpair()
    for sock in (client, client_side, server, server_side):
        sock.setblocking(False)
    pump.adopt("1", b"", (client_side, server_side), first=(b"", b""), idle_s=0)
    message = bytes(MESSAGE_BYTES)
    began = perf_counter()
    for _ in range(loops):
        for one, other in ((client, server), (server, client)):
            await loop.sock_sendall(one, message)
            await loop.sock_recv(other, MESSAGE_BYTES)
    took = perf_counter() - began
    pump.kick("1", CloseReason.KICKED)
    pump.close()
    client.close()
    server.close()
    return took


def main() -> None:
    """Run all of them."""
    runner = pyperf.Runner()
    runner.metadata["description"] = "the small steps of a connection"
    runner.bench_func("parse request (cookie, negotiation)", parse_request, COOKIE)
    runner.bench_func("decode routing token", decode_msts, TOKEN)
    runner.bench_time_func(f"route, no binding, {SERVERS} servers", route_new)
    runner.bench_time_func("place, claim, confirm, release", claim_and_confirm)
    runner.bench_time_func("pump, round trip with its two ends", pump_round_trips)


if __name__ == "__main__":
    main()
