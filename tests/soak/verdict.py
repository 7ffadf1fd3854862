"""What was done to the service, and whether what happened to its users is what may happen."""

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.soak.users import Users
from tests.support.running_balancer import RunningBalancer, Vip, total

# Fragmentation, caches and a burst; a leak of one session's worth per session would be more.
GROWTH_BYTES: Final = 24 * 1024 * 1024
# How long after a kill a connection that was just being made may fail.
_AFTERMATH_S: Final = 3.0
_SHOWN: Final = 5


@dataclass(slots=True)
class Done:
    """The disturbances so far, and the memory of the processes: first and last sample of each."""

    deeds: Counter[str] = field(default_factory=Counter)
    routers_killed_at: list[float] = field(default_factory=list)
    relays_killed: dict[int, float] = field(default_factory=dict)
    servers_failed: dict[str, list[float]] = field(default_factory=dict)
    complaints: list[str] = field(default_factory=list)
    memory: dict[tuple[int, str], tuple[int, int]] = field(default_factory=dict)

    def sampled(self, pid: int, title: str) -> None:
        """Take a sample of a process; one that has no title yet is still becoming what it is."""
        now_bytes = _resident_bytes(pid)
        if now_bytes and title.startswith("rdpbalancer: "):
            first_bytes, _ = self.memory.get((pid, title), (now_bytes, now_bytes))
            self.memory[(pid, title)] = (first_bytes, now_bytes)

    @property
    def growth(self) -> list[tuple[int, str]]:
        """Each process's growth in bytes, the largest first."""
        return sorted(
            ((last - first, title) for (_, title), (first, last) in self.memory.items()), reverse=True
        )

    def kills_at(self) -> Iterable[float]:
        """When anything was killed that may cost a connection that is being made."""
        yield from self.routers_killed_at
        yield from self.relays_killed.values()
        for times in self.servers_failed.values():
            yield from times


def _resident_bytes(pid: int) -> int:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


async def judge(balancer: RunningBalancer, vip: Vip, users: Users, done: Done) -> list[str]:
    """Return what did not hold, in words; everybody has left."""
    book, records = users.book, vip.records()
    wrong = [*done.complaints, *book.garbled, *book.strayed, *balancer.complaints()]
    wrong += _unexcused_breaks(users, records, done)
    wrong += _unexcused_failures(users, done)
    wrong += _records(users, records, done)
    wrong += await _counters(balancer, vip)
    wrong += [
        f"{title} has grown by {grown / 1024**2:.1f} MiB"
        for grown, title in done.growth
        if grown > GROWTH_BYTES
    ]
    return wrong


def _unexcused_breaks(users: Users, records: list[dict[str, Any]], done: Done) -> list[str]:
    """A session may break with its relay or its server only; its record says so."""
    excuses: Counter[str] = Counter()
    for record in records:
        relay = record["close_reason"] == "relay-lost" and record["relay"] in done.relays_killed
        server = record["close_side"] == "server" and record["server"] in done.servers_failed
        excuses[record["user"]] += relay or server
    broken = Counter(user for _, user, _ in users.book.broken)
    return [
        f"{user}: {count} sessions broke, {excuses[user]} of them with their relay or server"
        for user, count in broken.items()
        if count > excuses[user]
    ][:_SHOWN]


def _unexcused_failures(users: Users, done: Done) -> list[str]:
    kills = list(done.kills_at())
    return [
        f"{user} could not get in ({code})"
        for at, user, code in users.book.failed
        if not any(0 <= at - killed_at <= _AFTERMATH_S for killed_at in kills)
    ][:_SHOWN]


def _records(users: Users, records: list[dict[str, Any]], done: Done) -> list[str]:
    """One record for each session; a router that is killed may take one that it was just writing with it."""
    wrong = []
    ids = Counter(record["session"] for record in records)
    wrong += [f"session {session} has {count} records" for session, count in ids.items() if count > 1]
    written = Counter(record["user"] for record in records)
    missing = sum(max(0, visits - written[user]) for user, visits in users.book.visits.items())
    if missing > len(done.routers_killed_at):
        wrong.append(
            f"{missing} sessions have no record, and {len(done.routers_killed_at)} routers were killed"
        )
    return wrong


async def _counters(balancer: RunningBalancer, vip: Vip) -> list[str]:
    """The last router's own books."""
    metrics = await balancer.scrape()

    def of(name: str, **labels: str) -> int:
        return int(total(metrics, name, service=vip.name, **labels))

    accepted = of("connections_total")
    failed = of("handshakes_total", result="failed")
    accounted = of("rejected_total") + failed + of("sessions_total")
    return [] if accepted == accounted else [f"{accepted} connections accepted, {accounted} accounted for"]
