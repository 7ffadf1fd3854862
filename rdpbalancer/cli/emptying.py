"""Waiting for servers to be empty, as `drain --wait` does."""

import contextlib
import itertools
import os
import sys
import time
from collections.abc import Sequence
from typing import Any, Final

import click

from rdpbalancer.cli.asking import ask, rows
from rdpbalancer.cli.escape import escaped
from rdpbalancer.cli.output import counted
from rdpbalancer.cli.table import cell_width, shown
from rdpbalancer.errors import RdpBalancerError

# The shortest pause between two questions, and the longest: who waits for hours need not ask often.
_POLL_S: Final = 0.2
_SLOW_POLL_S: Final = 2.0
# The service answers nobody while its router is replaced: seconds, and half a minute on a bad way back.
_UNREACHABLE_S: Final = 60.0
# So many of those who are left are told by name.
_NAMES: Final = 5


class Emptying:
    """Servers (``service/server``) that are to become empty. `counts`: sessions on each, when last seen."""

    def __init__(self, context: click.Context, servers: Sequence[str]) -> None:
        self._context = context
        self._servers = servers
        self._told = ""
        self.counts: dict[str, int] = {}

    def wait(self, deadline_s: float | None) -> int:
        """Return how many sessions are left at the deadline, 0: the servers are empty.

        On a terminal it tells meanwhile how many there are, and of the last ones whose.
        """
        began_at = time.monotonic()
        try:
            while left := self._count_patiently():
                waited_s = time.monotonic() - began_at
                if deadline_s is not None and waited_s >= deadline_s:
                    return left
                self._tell(left)
                pause_s = min(_SLOW_POLL_S, max(_POLL_S, waited_s / 20))
                time.sleep(pause_s if deadline_s is None else min(pause_s, deadline_s - waited_s))
        finally:
            self._clear()
        return 0

    def names(self, most: int) -> list[str]:
        """Return who still has a session, at most so many: "alice on ts/ts1"."""
        sessions = (
            f"{shown(row['user'] or row['client'])} on {server}"
            for server in self._servers
            if self.counts.get(server)
            for row in rows(self._context, "sessions", server=server)
        )
        return list(itertools.islice(sessions, most))

    def _count_patiently(self) -> int:
        """Count, over an upgrade and a router's death, too: whoever waits for a night does not notice them.

        Raises UnreachableError: the service has not answered for a minute.
        """
        from rdpbalancer.control.client import UnreachableError

        until_at = time.monotonic() + _UNREACHABLE_S
        while True:
            try:
                return self._count()
            except UnreachableError:
                if time.monotonic() >= until_at:
                    raise
            time.sleep(_POLL_S)

    def _count(self) -> int:
        found = {f"{row['service']}/{row['name']}": row["sessions"] for row in ask(self._context, "servers")}
        # One that a reload has taken out of the configuration is in no list, and may still have sessions.
        self.counts = {
            server: found[server] if server in found else self._orphans(server) for server in self._servers
        }
        return sum(self.counts.values())

    def _orphans(self, server: str) -> int:
        from rdpbalancer.control.client import CommandRefusedError

        try:
            answer: dict[str, Any] = ask(self._context, "sessions", server=server, limit=1)
        except CommandRefusedError as error:
            if error.code != "unknown-server":  # a service that is busy has not said that nobody is there
                raise
            return 0
        return int(answer["total"])

    def _tell(self, left: int) -> None:
        """Write over the last line: how many, and who if they are few."""
        if not sys.stderr.isatty() or self._context.obj["quiet"]:
            return
        text = f"{counted(left, 'session')} left"
        if left <= _NAMES:
            with contextlib.suppress(RdpBalancerError):  # who cannot be named now is named at the next look
                text += f": {', '.join(self.names(left))}"
        if text == self._told:
            return
        self._clear()
        print(escaped(text), end="", file=sys.stderr, flush=True)
        self._told = text

    def _clear(self) -> None:
        if self._told:
            lines = 1 + (cell_width(self._told) - 1) // _width()
            print("\r\x1b[K" + "\x1b[A\x1b[K" * (lines - 1), end="", file=sys.stderr, flush=True)
            self._told = ""


def _width() -> int:
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or 80
    except OSError:
        return 80
