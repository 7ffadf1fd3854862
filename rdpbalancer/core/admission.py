"""Who may come in: counted before a byte is read, so that strangers cost a socket and nothing more.

A place is taken at accept and given back at the very end, whatever happens between. Per-source counts are
kept by network, an IPv6 source being its /64: a single line customer has that many addresses.
"""

from collections import defaultdict
from enum import StrEnum
from ipaddress import IPv4Address
from typing import TypeVar

import msgspec

from rdpbalancer.core.bucket import Buckets
from rdpbalancer.core.farm import Limits, VirtualService
from rdpbalancer.core.source import client_address

# Sources whose rate is remembered. A source beyond it pushes out the one silent longest, which at worst
# forgets that this one had used up its rate; 65,536 entries are about 10 MB.
MAX_RATED_SOURCES = 65_536

Counted = TypeVar("Counted", str, tuple[str, str])


class Refusal(StrEnum):
    """Why a connection was turned away at the door; the label of `rejected_total`."""

    DENIED = "denied"
    NOT_ALLOWED = "not-allowed"
    MAX_SESSIONS = "max-sessions"
    MAX_HALF_OPEN = "max-half-open"
    SOURCE_SESSIONS = "source-sessions"
    SOURCE_HALF_OPEN = "source-half-open"
    SOURCE_RATE = "source-rate"


class AdmissionSlot(msgspec.Struct, eq=False):
    """A connection's place inside. `source` is what it is counted under, None: not known yet."""

    service: str
    source: str | None = None
    half_open: bool = True
    held: bool = True


class Admission:
    """Places in total, by service and by source. One per router; never waits."""

    def __init__(self, *, max_half_open: int) -> None:
        self.max_half_open = max_half_open
        self.half_open = 0
        self._places: defaultdict[str, int] = defaultdict(int)
        self._source_places: defaultdict[tuple[str, str], int] = defaultdict(int)
        self._source_half_open: defaultdict[tuple[str, str], int] = defaultdict(int)
        self._rates = Buckets(MAX_RATED_SOURCES)

    def enter(self, service: VirtualService) -> AdmissionSlot | Refusal:
        """Take a place, before anything is known of the source beyond its being there."""
        if self.half_open >= self.max_half_open:
            return Refusal.MAX_HALF_OPEN
        if service.limits.max_sessions and self.places(service.name) >= service.limits.max_sessions:
            return Refusal.MAX_SESSIONS
        self.half_open += 1
        self._places[service.name] += 1
        return AdmissionSlot(service.name)

    def identify(
        self, place: AdmissionSlot, service: VirtualService, source: str, *, now: float
    ) -> Refusal | None:
        """Count the place under its source address; a refusal leaves it to be released.

        With PROXY protocol the source is known only after its header, otherwise at once. Raises ValueError:
        the place is not half open, or counted under a source already; its counts would stay behind for ever.
        """
        if not (place.held and place.half_open) or place.source is not None:
            message = f"{place} cannot be counted under {source}"
            raise ValueError(message)
        limits = service.limits
        if refusal := _listed(limits, source):
            return refusal
        counted = (place.service, source_network(source))
        if limits.source_sessions and self._source_places.get(counted, 0) >= limits.source_sessions:
            return Refusal.SOURCE_SESSIONS
        # Without a limit of its own, one source may hold half of all half-open places: a silent crowd behind
        # one address must leave room for everybody else.
        half_open_limit = limits.source_half_open or max(1, self.max_half_open // 2)
        if self._source_half_open.get(counted, 0) >= half_open_limit:
            return Refusal.SOURCE_HALF_OPEN
        if limits.source_rate and not self._rates.spend(
            counted, whole=float(limits.source_rate), refill_s=limits.source_rate_interval_s, now=now
        ):
            return Refusal.SOURCE_RATE
        place.source = counted[1]
        self._source_places[counted] += 1
        self._source_half_open[counted] += 1
        return None

    def opened(self, place: AdmissionSlot) -> None:
        """The connection has become a session: it is half open no longer."""
        if not (place.held and place.half_open):
            return
        place.half_open = False
        self.half_open -= 1
        if place.source is not None:
            _drop(self._source_half_open, (place.service, place.source))

    def release(self, place: AdmissionSlot) -> None:
        """Give the place back. Twice does nothing."""
        if not place.held:
            return
        self.opened(place)
        place.held = False
        _drop(self._places, place.service)
        if place.source is not None:
            _drop(self._source_places, (place.service, place.source))

    def restore(self, service: str, source: str) -> AdmissionSlot:
        """Take the place of a session that is live already: the router has been restarted."""
        place = AdmissionSlot(service, source_network(source), half_open=False)
        self._places[service] += 1
        self._source_places[(service, source_network(source))] += 1
        return place

    def places(self, service: str) -> int:
        """Return the places taken in the service, half open or sessions."""
        return self._places.get(service, 0)


def source_network(source: str) -> str:
    """Return what a source is counted under: an IPv4 address itself, an IPv6 address's /64 prefix."""
    if ":" not in source:
        return source
    address = client_address(source)
    return str(address) if isinstance(address, IPv4Address) else address.exploded[:19]


def _listed(limits: Limits, source: str) -> Refusal | None:
    if not limits.allow and not limits.deny:
        return None
    address = client_address(source)
    if any(address in network for network in limits.deny):
        return Refusal.DENIED
    if limits.allow and not any(address in network for network in limits.allow):
        return Refusal.NOT_ALLOWED
    return None


def _drop(counts: defaultdict[Counted, int], key: Counted) -> None:
    left = counts[key] - 1
    if left:
        counts[key] = left
    else:
        del counts[key]
