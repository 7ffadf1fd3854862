"""Splitting what does not fit into one message of a channel, and putting it together again."""

from collections.abc import Iterator

import msgspec

from rdpbalancer.ipc.relay_messages import MigratedSession, SessionChunk, SessionTransfer

# A pending chunk may be as large as the read buffer (512 KiB). What is left of both directions goes into the
# session's own message, and with the facts it must stay below the 128 KiB that a message may have.
PART_BYTES = 48 * 1024


def packed(carried: SessionTransfer) -> Iterator[SessionChunk | MigratedSession]:
    """Yield the messages that carry a session: its bytes in parts where there are many, then itself."""
    rest = {}
    for up, data in ((True, carried.to_server), (False, carried.to_client)):
        whole = len(data) - len(data) % PART_BYTES if len(data) > PART_BYTES else 0
        for start in range(0, whole, PART_BYTES):
            yield SessionChunk(up, data[start : start + PART_BYTES])
        rest[up] = data[whole:]
    fields = msgspec.structs.asdict(carried)
    yield MigratedSession(**{**fields, "to_server": rest[True], "to_client": rest[False]})


class ChunkCollector:
    """The parts of the session whose own message comes next over a channel."""

    def __init__(self) -> None:
        self._to_server = bytearray()
        self._to_client = bytearray()

    def add(self, part: SessionChunk) -> None:
        """Keep a part until its session comes."""
        (self._to_server if part.up else self._to_client).extend(part.data)

    def complete(self, session: SessionTransfer) -> SessionTransfer:
        """Return the session with its parts put before its own bytes."""
        if not (self._to_server or self._to_client):
            return session
        to_server, to_client = bytes(self._to_server), bytes(self._to_client)
        self._to_server.clear()
        self._to_client.clear()
        return msgspec.structs.replace(
            session, to_server=to_server + session.to_server, to_client=to_client + session.to_client
        )
