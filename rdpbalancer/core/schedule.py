"""The schedulers: which of the servers that could take a new user gets it.

Each is a function ``(choices, ask) -> Choice | None`` over servers that are usable, have a weight above zero
and a free place. All stand in `SCHEDULERS`, by the name the configuration gives them.
"""

import math
from collections.abc import Callable, MutableMapping, Sequence
from hashlib import blake2b
from typing import Final, NamedTuple, Protocol

import msgspec

from rdpbalancer.model import ServerId


class Random(Protocol):
    """The part of `random.Random` that scheduling needs."""

    def random(self) -> float:
        """Return a number in [0, 1)."""
        ...


class Candidate(NamedTuple):
    """A server that could be chosen: its effective weight (above 0), and what it carries."""

    server: ServerId
    weight: float
    load: int


class ScheduleInput(msgspec.Struct, frozen=True):
    """What a scheduler may know of the connection, and the state it keeps between connections.

    `turns`: a number for each server that grows with each time it is chosen among the least loaded.

    `source`: the client's IP address as text. `wheel`: the credit, in sessions, of each server in weighted
    round robin; it belongs to the virtual service and survives a reload.
    """

    source: str
    rng: Random
    wheel: MutableMapping[ServerId, float] = msgspec.field(default_factory=dict)
    turns: MutableMapping[ServerId, int] = msgspec.field(default_factory=dict)


Scheduler = Callable[[Sequence[Candidate], ScheduleInput], Candidate | None]

# Credits nearer to each other than this are equal but for rounding, and go by the configuration's order: a
# cycle would not repeat exactly otherwise. Real differences are above 1/25,600 (a hundred servers of 256).
_ROUNDING = 1e-9


def least_connections(choices: Sequence[Candidate], ask: ScheduleInput) -> Candidate | None:
    """Return the server that would be least loaded for its weight once it had this session too.

    Counting the session to come makes the first ones go by weight, where "sessions now" would call all empty
    servers equal. Ties go to the heavier server, then to the one that was chosen longest ago, then by the
    configuration's order: users who come one after the other and leave a disconnected desktop behind are
    spread, too.
    """
    turns = ask.turns
    chosen = min(
        choices,
        key=lambda choice: (
            (choice.load + 1) / choice.weight,
            -choice.weight,
            turns.get(choice.server, 0),
        ),
        default=None,
    )
    if chosen is not None:
        turns[chosen.server] = max(turns.values(), default=0) + 1
    return chosen


def round_robin(choices: Sequence[Candidate], ask: ScheduleInput) -> Candidate | None:
    """Return the next server by smooth weighted round robin: exact over a cycle, and never in bursts.

    Every server earns its share of one session in credit, the richest is chosen and pays one. Credits of
    servers that are not among the choices rest, and are forgotten with their server. They are kept in
    sessions, not in weights: a credit of 100 from before an agent turned all weights from 100 to 1 would send
    the next hundred users to one server.
    """
    if not choices:
        return None
    wheel = ask.wheel
    total = sum(choice.weight for choice in choices)
    for choice in choices:
        wheel[choice.server] = wheel.get(choice.server, 0.0) + choice.weight / total
    richest = max(wheel[choice.server] for choice in choices)
    chosen = next(choice for choice in choices if wheel[choice.server] > richest - _ROUNDING)
    wheel[chosen.server] -= 1
    return chosen


def source_hash(choices: Sequence[Candidate], ask: ScheduleInput) -> Candidate | None:
    """Return the server by weighted rendezvous hashing of the source address.

    The same source gets the same server as long as it can take it, and the loss of a server moves only the
    users it had.
    """
    return max(choices, key=lambda choice: _rendezvous_score(ask.source, choice), default=None)


def _rendezvous_score(source: str, choice: Candidate) -> float:
    digest = blake2b(f"{source}\0{choice.server.name}".encode(), digest_size=8).digest()
    return -choice.weight / math.log(_between_0_and_1(digest))


def _between_0_and_1(digest: bytes) -> float:
    """Spread eight bytes over (0, 1), both ends left out: the logarithm is below 0 for every digest."""
    # 52 bits and a half are what a float holds exactly; all 64 would round to 1 at the top.
    return ((int.from_bytes(digest, "big") >> 12) + 0.5) / 2**52


def random_two_choices(choices: Sequence[Candidate], ask: ScheduleInput) -> Candidate | None:
    """Return the less loaded of two servers drawn by weight."""
    if len(choices) < 2:
        return choices[0] if choices else None
    first = _draw(choices, ask.rng)
    second = _draw([choice for choice in choices if choice is not first], ask.rng)
    return least_connections((first, second), ask)


def _draw(choices: Sequence[Candidate], rng: Random) -> Candidate:
    mark = rng.random() * sum(choice.weight for choice in choices)
    for choice in choices:
        mark -= choice.weight
        if mark < 0:
            return choice
    return choices[-1]  # rounding may leave a remainder


def first_available(choices: Sequence[Candidate], ask: ScheduleInput) -> Candidate | None:
    """Return the first server of the configuration's order: fill one before the next is used."""
    del ask
    return choices[0] if choices else None


SCHEDULERS: Final[dict[str, Scheduler]] = {
    "weighted-least-connections": least_connections,
    "weighted-round-robin": round_robin,
    "source-hash": source_hash,
    "random-two-choices": random_two_choices,
    "first-available": first_available,
}
