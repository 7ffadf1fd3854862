"""Logins that are handed over as GNOME Remote Desktop does it: twice, each time by a number of its own.

Read in gnome-remote-desktop's `grd-daemon-system.c` and `grd-rdp-routing-token.c` (2026): the system daemon
redirects the first connection to the greeter, the greeter the second one to the user's session. The routing
token is `Cookie: msts=` and a random u32, the same both times, for it is the client's number on that host.
The host looks at the token before it answers anything. Who brings one that it does not know, or for which it
has waited 30 s, is closed without a word.
"""

import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

WAIT_S: Final = 30.0  # MAX_HANDOVER_WAIT_TIME_S
REDIRECTIONS: Final = 2  # to the greeter, and from it to the session
MAX_WAITED_FOR: Final = 100_000  # clients choose how many: the oldest gives way

_TOKEN = re.compile(rb"Cookie: msts=(\d{1,10})")


@dataclass(frozen=True, slots=True)
class Handover:
    """A client that is waited for, or has come: its number, its user, and how often it was redirected."""

    number: int
    user: str
    redirections: int
    until: float


class Handovers:
    """The clients that one host waits for. `renumber`: a new number for the second redirection, too."""

    def __init__(self, clock: Callable[[], float], *, wait_s: float = WAIT_S, renumber: bool = False) -> None:
        # Numbers of two hosts are the same by chance alone, so they come from the system, not from a seed.
        self._rng = random.SystemRandom()
        self._clock = clock
        self._wait_s = wait_s
        self._renumber = renumber
        self._waited_for: dict[int, Handover] = {}
        self.unknown = 0

    def __len__(self) -> int:
        return len(self._waited_for)

    def begin(self, user: str) -> bytes:
        """Send a user who has just come to the greeter; return the routing token."""
        return self._wait_for(self._unused_number(), user, 1)

    def go_on(self, came: Handover) -> bytes | None:
        """Return the token for the next stage, None: this is the last one, the desktop."""
        if came.redirections >= REDIRECTIONS:
            return None
        number = self._unused_number() if self._renumber else came.number
        return self._wait_for(number, came.user, came.redirections + 1)

    def take(self, token: bytes) -> Handover | None:
        """Return who has come with this token, once; None: nobody is waited for by it (any more)."""
        match = _TOKEN.fullmatch(token)
        came = self._waited_for.pop(int(match[1]), None) if match is not None else None
        if came is None or came.until <= self._clock():
            self.unknown += 1
            return None
        return came

    def _wait_for(self, number: int, user: str, redirections: int) -> bytes:
        self._waited_for[number] = Handover(number, user, redirections, self._clock() + self._wait_s)
        if len(self._waited_for) > MAX_WAITED_FOR:
            del self._waited_for[next(iter(self._waited_for))]
        return b"Cookie: msts=%d" % number

    def _unused_number(self) -> int:
        while True:
            number = self._rng.randrange(1, 2**32)
            if number not in self._waited_for:
                return number
