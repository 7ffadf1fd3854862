"""A flood from a process of its own: ``python -m tests.faults.overload.flood KIND HOST PORT SECONDS SOURCE``.

`silent` opens connections and says nothing (20,000 in all, as many at once as the other side lets live);
`garbage` sends something that is no request and leaves (2,000 a second). Neither waits for an answer; with
`polite-` before it, no more than 256 are under way that the other side has not looked at. Prints what it did,
as JSON.
"""

import contextlib
import itertools
import json
import random
import select
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Final

SILENT_IN_ALL: Final = 20_000
SILENT_PER_S: Final = 4_000
GARBAGE_PER_S: Final = 2_000
# What the balancer keeps of one source (half of `max_half_open`).
SILENT_KEPT: Final = 2048
# More than these would stand before every user in the kernel's queue, and measure how busy the machine is.
POLITE_AT_ONCE: Final = 256
_TURN_S: Final = 0.01


def main(arguments: Sequence[str]) -> None:
    """Flood for the time given, then let go."""
    kind, host, port, seconds, *sources = arguments
    flood = _Flood((host, int(port)), sources)
    if kind.startswith("polite-"):
        flood.at_once = POLITE_AT_ONCE + (SILENT_KEPT if kind.endswith("silent") else 0)
    if kind.endswith("silent"):
        flood.in_all = SILENT_IN_ALL
        flood.run(float(seconds), per_s=SILENT_PER_S, words=itertools.repeat(b""))
    else:
        flood.run(float(seconds), per_s=GARBAGE_PER_S, words=_garbage())
    print(json.dumps({"opened": flood.opened, "most_open": flood.most_open}))  # noqa: T201 - the answer


def _garbage() -> Iterator[bytes]:
    from tests.support.vectors import VECTORS

    rng = random.Random(1)
    whole = [vector.data for vector in VECTORS.values()]
    while True:
        yield rng.randbytes(rng.randint(1, 600))
        yield bytes((3, 0, 0, rng.randint(0, 255))) + rng.randbytes(40)
        data = bytearray(rng.choice(whole))
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        yield bytes(data[: rng.randint(1, len(data))])


class _Flood:
    def __init__(self, target: tuple[str, int], sources: Sequence[str]) -> None:
        self._target = target
        self._sources = itertools.cycle(sources)
        self._poll = select.epoll()
        self._open: dict[int, tuple[socket.socket, bytes]] = {}
        self.opened = 0
        self.most_open = 0
        self.at_once, self.in_all = 10**9, 10**9

    def run(self, seconds: float, *, per_s: int, words: Iterator[bytes]) -> None:
        began_at = time.monotonic()
        while (past_s := time.monotonic() - began_at) < seconds:
            due = min(self.in_all, int(past_s * per_s)) - self.opened
            for _ in range(min(due, per_s // 20)):
                if len(self._open) < self.at_once:
                    self._dial(next(words))
            self._listen()
        for sock, _ in self._open.values():
            sock.close()

    def _dial(self, word: bytes) -> None:
        sock = socket.socket()
        sock.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            sock.setsockopt(socket.SOL_IP, 24, 1)  # IP_BIND_ADDRESS_NO_PORT: the port is chosen at connect
            sock.bind((next(self._sources), 0))
            sock.connect(self._target)
        self._open[sock.fileno()] = (sock, word)
        self._poll.register(sock, select.EPOLLIN | (select.EPOLLOUT if word else 0))
        self.opened += 1
        self.most_open = max(self.most_open, len(self._open))

    def _listen(self) -> None:
        for number, events in self._poll.poll(_TURN_S):
            sock, word = self._open[number]
            if events & select.EPOLLOUT and not events & select.EPOLLHUP:
                with contextlib.suppress(OSError):
                    sock.send(word)
                    sock.shutdown(socket.SHUT_WR)
                self._poll.modify(number, select.EPOLLIN)
                continue
            del self._open[number]
            self._poll.unregister(number)
            sock.close()


if __name__ == "__main__":
    main(sys.argv[1:])
