"""The addresses behind the servers' names."""

from collections.abc import Sequence

from rdpbalancer.core.farm import RealServer
from rdpbalancer.model import ServerId
from rdpbalancer.runtime.server_names import ServerNames
from rdpbalancer.telemetry.events import Events
from tests.unit.core.farms import real_server, sid


class NamesFixture:
    """Names of two servers, and who is told of a change."""

    def __init__(self) -> None:
        self.known: dict[ServerId, tuple[str, ...]] = {sid("ts1"): ("192.0.2.1",), sid("ts2"): ()}
        self.changed: list[tuple[ServerId, tuple[str, ...]]] = []
        self.events = Events()
        self.asked: list[str] = []
        self.names = ServerNames(
            servers=self._servers,
            addresses=self.known.get,
            changed=lambda *change: self.changed.append(change),
            events=self.events,
            resolve=self._resolve,
        )

    def _servers(self) -> Sequence[RealServer]:
        return [real_server("ts1"), real_server("ts2")]

    async def _resolve(self, host: str) -> tuple[str, ...] | str:
        self.asked.append(host)
        return (f"192.0.2.{len(self.asked)}",) if "ts1" in host else "no such name"

    def happened(self) -> list[str]:
        """Return the events' names."""
        return [event["event"] for event in self.events.recent()]


async def test_names_are_resolved_together() -> None:
    fixture = NamesFixture()
    found = await fixture.names.resolve([real_server("ts1"), real_server("ts2")])
    assert [("192.0.2.1",), "no such name"] == found


def test_only_other_addresses_are_a_change() -> None:
    """In another order they are the same."""
    fixture = NamesFixture()
    fixture.known[sid("ts1")] = ("192.0.2.1", "192.0.2.2")
    fixture.names.resolved(sid("ts1"), ("192.0.2.2", "192.0.2.1"))
    assert [] == fixture.changed
    fixture.names.resolved(sid("ts1"), ("192.0.2.9",))
    assert [(sid("ts1"), ("192.0.2.9",))] == fixture.changed


def test_a_name_that_cannot_be_resolved_is_told_once_and_when_it_can_be_again() -> None:
    fixture = NamesFixture()
    for _ in range(3):
        fixture.names.resolved(sid("ts1"), "no such name")
    fixture.names.resolved(sid("ts1"), ("192.0.2.1",))
    assert ["name_not_resolved", "name_resolved"] == fixture.happened()
    assert [] == fixture.changed


def test_a_server_that_is_configured_no_more_is_left_alone() -> None:
    fixture = NamesFixture()
    fixture.names.resolved(sid("removed"), ("192.0.2.9",))
    fixture.names.resolved(sid("ts1"), "no such name")
    fixture.names.keep_only([sid("ts2")])
    fixture.names.resolved(sid("ts1"), ("192.0.2.1",))
    assert ([], ["name_not_resolved"]) == (fixture.changed, fixture.happened())


async def test_stopping_twice_does_nothing() -> None:
    fixture = NamesFixture()
    await fixture.names.restart(3600)
    await fixture.names.stop()
    await fixture.names.stop()
