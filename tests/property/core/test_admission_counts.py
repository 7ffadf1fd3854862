"""The door against a list of everybody inside."""

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    rule,
)

from rdpbalancer.core.admission import Admission, AdmissionSlot, Refusal, source_network
from rdpbalancer.core.farm import Limits, VirtualService
from tests.unit.core.farms import virtual_service

MAX_HALF_OPEN = 5
SERVICES = [
    virtual_service(name="one", limits=Limits(max_sessions=6, source_sessions=3, source_half_open=2)),
    virtual_service(name="other"),
]
SOURCES = ["192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2", "2001:db8:0:1::1", "::ffff:192.0.2.1"]

services, sources = st.sampled_from(SERVICES), st.sampled_from(SOURCES)


class AdmissionCounts(RuleBasedStateMachine):
    """Coming, being identified, becoming a session, leaving, in any order."""

    unknown: Bundle[AdmissionSlot] = Bundle("unknown")
    known: Bundle[AdmissionSlot] = Bundle("known")
    gone: Bundle[AdmissionSlot] = Bundle("gone")

    def __init__(self) -> None:
        super().__init__()
        self.door = Admission(max_half_open=MAX_HALF_OPEN)
        self.inside: list[AdmissionSlot] = []

    def _count(self, service: str, source: str | None = None, *, half_open: bool | None = None) -> int:
        return sum(
            place.service == service
            and source in (None, place.source)
            and half_open in (None, place.half_open)
            for place in self.inside
        )

    @rule(target=unknown, service=services)
    def enter(self, service: VirtualService) -> MultipleResults[AdmissionSlot] | AdmissionSlot:
        """Come to the door: refused exactly where counting says so."""
        half_open = sum(place.half_open for place in self.inside)
        limit = service.limits.max_sessions
        expected = (
            Refusal.MAX_HALF_OPEN
            if half_open >= MAX_HALF_OPEN
            else Refusal.MAX_SESSIONS
            if limit and self._count(service.name) >= limit
            else None
        )
        place = self.door.enter(service)
        if isinstance(place, Refusal):
            assert expected == place
            return multiple()
        assert expected is None
        self.inside.append(place)
        return place

    @rule(target=known, place=consumes(unknown), source=sources)
    def identify(self, place: AdmissionSlot, source: str) -> AdmissionSlot:
        """Say who it is; whoever is refused leaves by `release` as everybody does."""
        limits = next(each.limits for each in SERVICES if each.name == place.service)
        network = source_network(source)
        expected = None
        if limits.source_sessions and self._count(place.service, network) >= limits.source_sessions:
            expected = Refusal.SOURCE_SESSIONS
        elif self._count(place.service, network, half_open=True) >= (
            limits.source_half_open or MAX_HALF_OPEN // 2
        ):
            expected = Refusal.SOURCE_HALF_OPEN
        service = virtual_service(name=place.service, limits=limits)
        assert expected == self.door.identify(place, service, source, now=0.0)
        assert (None if expected else network) == place.source
        return place

    @rule(place=st.one_of(known, gone))
    def open(self, place: AdmissionSlot) -> None:
        """Become a session, perhaps for the second time, perhaps after the end."""
        self.door.opened(place)

    @rule(target=gone, place=st.one_of(consumes(unknown), consumes(known)))
    def release(self, place: AdmissionSlot) -> AdmissionSlot:
        """Leave."""
        self.door.release(place)
        self.inside = [each for each in self.inside if each is not place]
        return place

    @rule(place=gone)
    def release_again(self, place: AdmissionSlot) -> None:
        """Clean up once too often."""
        self.door.release(place)

    @rule(target=known, service=services, source=sources)
    def restore(self, service: VirtualService, source: str) -> AdmissionSlot:
        """Take over a live session, whatever the limits say."""
        place = self.door.restore(service.name, source)
        self.inside.append(place)
        return place

    @invariant()
    def counts_agree(self) -> None:
        """Half open in all, and places by service."""
        assert sum(place.half_open for place in self.inside) == self.door.half_open
        for service in SERVICES:
            assert self._count(service.name) == self.door.places(service.name)

    def teardown(self) -> None:
        """Everybody leaves: no count may be left."""
        for place in self.inside:
            self.door.release(place)
        kept = {name: value for name, value in vars(self.door).items() if value}
        assert {"max_half_open": MAX_HALF_OPEN} == kept


TestAdmissionCounts = AdmissionCounts.TestCase


@given(
    rate=st.integers(1, 50),
    interval_halves=st.sampled_from([1, 2, 4, 8, 64]),
    pauses=st.lists(st.integers(0, 40), max_size=200),
)
def test_a_source_gets_exactly_its_rate(rate: int, interval_halves: int, pauses: list[int]) -> None:
    """Against exact arithmetic: times are eighths of a second, so that floats are exact too."""
    service = virtual_service(limits=Limits(source_rate=rate, source_rate_interval_s=interval_halves / 2))
    door, now, tokens = Admission(max_half_open=1), Fraction(0), Fraction(rate)
    for pause in pauses:
        now += Fraction(pause, 8)
        tokens = min(Fraction(rate), tokens + Fraction(pause, 8) * rate / Fraction(interval_halves, 2))
        place = door.enter(service)
        assert isinstance(place, AdmissionSlot)
        refusal = door.identify(place, service, "192.0.2.1", now=float(now))
        door.release(place)
        assert (None if tokens >= 1 else Refusal.SOURCE_RATE) == refusal
        tokens -= refusal is None
