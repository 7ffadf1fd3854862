"""The events that `show events` looks back on."""

import io
import time

from rdpbalancer.telemetry.events import Events
from tests.unit.telemetry.samples import lines


def test_an_event_is_a_log_line_and_is_remembered(log: io.StringIO) -> None:
    """The same words in both, and when it was in Unix time."""
    events = Events()
    before = time.time()
    events.info("server_up", service="ts", server="ts1")
    events.warning("agent_failed", detail="refused")
    events.error("relay_lost", relay=7)
    after = time.time()
    recent = events.recent()
    assert all(before <= event.pop("time") <= after for event in recent)
    ids = [event.pop("id") for event in recent]
    assert ids == sorted(set(ids))
    assert [
        {"level": "info", "event": "server_up", "service": "ts", "server": "ts1"},
        {"level": "warning", "event": "agent_failed", "detail": "refused"},
        {"level": "error", "event": "relay_lost", "relay": 7},
    ] == recent
    assert [(event["level"], event["event"]) for event in recent] == [
        (line["level"], line["event"]) for line in lines(log)
    ]


def test_the_last_thousand_are_remembered(log: io.StringIO) -> None:
    """A farm that flaps for days fills no memory; what is newest stays, oldest first."""
    events = Events()
    for number in range(1500):
        events.info("flapping", number=number)
    assert list(range(500, 1500)) == [event["number"] for event in events.recent()]
    assert 1500 == len(lines(log))


def test_looking_back_changes_nothing(log: io.StringIO) -> None:
    """Who asks gets a list of their own."""
    events = Events()
    events.info("once")
    events.recent().clear()
    assert 1 == len(events.recent())
    assert 1 == len(lines(log))


def test_events_of_other_processes_are_remembered_as_they_are_heard_of(log: io.StringIO) -> None:
    """What the supervisor has logged is shown by the router, and not logged twice.

    Their ids rise as they come: who asks for what is new since the last time misses none.
    """
    events = Events()
    events.info("router_ready")
    events.remember({"time": 1.0, "level": "error", "event": "router_ended"})
    first, second = events.recent()
    assert ("router_ready", "router_ended") == (first["event"], second["event"])
    assert first["id"] < second["id"]
    assert ["router_ready"] == [line["event"] for line in lines(log)]


def test_ids_rise_over_a_restart(log: io.StringIO) -> None:
    """Who remembers the last id of a router that has ended is told all that the next one has seen."""
    before, after = Events(), Events()
    for _ in range(3):
        before.info("old")
    time.sleep(0.005)  # ids are milliseconds: a router takes longer to start
    after.info("new")
    assert before.recent()[-1]["id"] < after.recent()[0]["id"]
    assert 4 == len(lines(log))


def test_whoever_wants_hears_every_event(log: io.StringIO) -> None:
    """The supervisor passes its own on as they happen, as they are remembered."""
    events, heard = Events(), list[dict[str, object]]()
    events.info("before")
    events.on_event = heard.append
    events.error("relay_ended", relay=7)
    assert heard == [{k: v for k, v in event.items() if k != "id"} for event in events.recent()[1:]]
    assert 2 == len(lines(log))
