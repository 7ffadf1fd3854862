"""Splitting what does not fit into one message of the private line, and putting it together again."""

from collections import defaultdict
from collections.abc import Iterator

import msgspec

from rdpbalancer.relay.messages import Carried, Part, Surrendered

# A pending chunk may be as large as the read buffer (512 KiB). What is left of both directions goes into the
# session's own message, and with the facts it must stay below the 128 KiB that a message may have.
PART_BYTES = 48 * 1024


def packed(carried: Carried) -> Iterator[Part | Surrendered]:
    """Yield the messages that carry a session: its bytes in parts where there are many, then itself."""
    rest, parts = {}, 0
    for up, data in ((True, carried.to_server), (False, carried.to_client)):
        whole = len(data) - len(data) % PART_BYTES if len(data) > PART_BYTES else 0
        for start in range(0, whole, PART_BYTES):
            parts += 1
            yield Part(carried.id, up, data[start : start + PART_BYTES])
        rest[up] = data[whole:]
    fields = msgspec.structs.asdict(carried)
    fields |= {"to_server": rest[True], "to_client": rest[False], "parts": parts}
    yield Surrendered(**fields)


class Parts:
    """The parts that have come of sessions whose own message has not. Only our own processes send any."""

    def __init__(self) -> None:
        self._data: defaultdict[tuple[str, bool], bytearray] = defaultdict(bytearray)

    def add(self, part: Part) -> None:
        """Keep a part until its session comes."""
        self._data[(part.id, part.up)] += part.data

    def complete(self, carried: Carried) -> Carried:
        """Return the session with its parts put before its own bytes."""
        if not carried.parts:
            return carried
        to_server = bytes(self._data.pop((carried.id, True), b"")) + carried.to_server
        to_client = bytes(self._data.pop((carried.id, False), b"")) + carried.to_client
        return msgspec.structs.replace(carried, to_server=to_server, to_client=to_client, parts=0)

    def clear(self) -> None:
        """Forget the parts of sessions that did not come: the router that sent them is no more."""
        self._data.clear()
