"""Splitting what does not fit into one message of the private line, and putting it together again."""

from collections import defaultdict
from collections.abc import Iterator
from typing import TypeVar

import msgspec

from rdpbalancer.relay.messages import Adopt, Carried, Part, Surrendered

# A pending chunk may be as large as the read buffer (256 KiB); a message takes 128 KiB with the facts.
PART_BYTES = 64 * 1024

Delivery = TypeVar("Delivery", Adopt, Surrendered)


def packed(carried: Carried, kind: type[Delivery]) -> Iterator[Part | Delivery]:
    """Yield the messages that carry a session: its bytes in parts where there are many, then itself."""
    rest = {}
    for up, data in ((True, carried.to_server), (False, carried.to_client)):
        whole = len(data) - len(data) % PART_BYTES if len(data) > PART_BYTES else 0
        for start in range(0, whole, PART_BYTES):
            yield Part(carried.id, up, data[start : start + PART_BYTES])
        rest[up] = data[whole:]
    fields = msgspec.structs.asdict(carried) | {"to_server": rest[True], "to_client": rest[False]}
    yield kind(**fields)


class Parts:
    """The parts that have come of sessions whose own message has not. Only our own processes send any."""

    def __init__(self) -> None:
        self._data: defaultdict[tuple[str, bool], bytearray] = defaultdict(bytearray)

    def add(self, part: Part) -> None:
        """Keep a part until its session comes."""
        self._data[(part.id, part.up)] += part.data

    def complete(self, carried: Carried) -> Carried:
        """Return the session with its parts put before its own bytes."""
        to_server = bytes(self._data.pop((carried.id, True), b"")) + carried.to_server
        to_client = bytes(self._data.pop((carried.id, False), b"")) + carried.to_client
        return msgspec.structs.replace(carried, to_server=to_server, to_client=to_client)
