"""The supervisor's part in a reload, without processes."""

from pathlib import Path
from typing import Any, cast

import pytest

from rdpbalancer.ipc.router_messages import (
    ConfigCommitted,
    ConfigPrepared,
    PrepareConfig,
    Reload,
    ReopenLog,
)
from rdpbalancer.runtime import running_config
from rdpbalancer.runtime.config_follower import ConfigFollower
from rdpbalancer.runtime.phase import Phase
from rdpbalancer.runtime.restarts import Restarts
from rdpbalancer.runtime.running_config import ConfigInUse
from rdpbalancer.telemetry.events import Events
from tests.unit.runtime.supervisor_fakes import FakeListeners, FakeRelays, FakeRouterProcess

_IN_USE = "127.0.0.1:1"


class FollowerFixture:
    """A follower over fakes, with a configuration in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "rdpbalancer.yaml"
        self.write(relays=2, drain_s=10)
        running = running_config.read(self.file, environ={})
        running_config.keep(running)
        self.config = ConfigInUse(running)
        self.phase = Phase()
        self.router = FakeRouterProcess()
        self.listeners = FakeListeners(_IN_USE)
        self.relays = FakeRelays(surplus=[7])
        self.events = Events()
        self.later: list[Any] = []
        self.follower = ConfigFollower(
            config=self.config,
            phase=self.phase,
            listeners=cast("Any", self.listeners),
            relays=cast("Any", self.relays),
            router=cast("Any", self.router),
            restarts=Restarts(
                clock=lambda: 0.0, call_later=lambda *call: self.later.append(call), events=self.events
            ),
            events=self.events,
        )

    def write(self, *, relays: int, drain_s: int) -> None:
        """Write the operator's file."""
        self.file.write_text(
            f"global: {{runtime_dir: {self.folder}, state_dir: {self.folder}, relays: {relays},"
            f" shutdown_timeout: {drain_s}s}}\n"
            "virtual_services: [{name: ts, listen: '127.0.0.1:0',"
            " real_servers: [{name: a, address: '192.0.2.1:3389'}]}]\n"
        )

    def keep(self) -> None:
        """Keep what is written, as a router does that commits it."""
        running_config.keep(running_config.read(self.file, environ={}))

    def happened(self) -> list[str]:
        """Return the events' names."""
        return [event["event"] for event in self.events.recent()]


@pytest.fixture
def fixture(tmp_path: Path) -> FollowerFixture:
    """Return a follower of a configuration that is kept."""
    return FollowerFixture(tmp_path)


@pytest.mark.parametrize("stopping", [False, True])
def test_sighup_at_a_stop_reloads_nothing(fixture: FollowerFixture, *, stopping: bool) -> None:
    """It may come from logrotate, in a drain of hours: the log is opened anew, and nobody is let in."""
    fixture.phase.stopping = stopping
    fixture.follower.reload()
    assert ([ReopenLog] if stopping else [ReopenLog, Reload]) == fixture.router.types()


def test_sighup_between_two_routers_is_the_next_one_s(fixture: FollowerFixture) -> None:
    fixture.router.ready = fixture.router.serves = False
    fixture.follower.reload()
    assert ([], True) == (fixture.router.types(), fixture.phase.reload_later)
    fixture.router.ready = fixture.router.serves = True
    fixture.follower.reload_if_ready()
    fixture.follower.reload_if_ready()
    assert ([Reload], False) == (fixture.router.types(), fixture.phase.reload_later)


def test_what_a_new_configuration_wants_is_opened(fixture: FollowerFixture) -> None:
    fixture.follower.prepare(PrepareConfig(3, {"ts": "127.0.0.1:0"}))
    assert {3: ["ts"]} == fixture.listeners.prepared
    assert [ConfigPrepared(3, "")] == fixture.router.sent


def test_what_cannot_be_opened_is_said(fixture: FollowerFixture) -> None:
    fixture.follower.prepare(PrepareConfig(3, {"ts": _IN_USE}))
    assert [ConfigPrepared(3, f"{_IN_USE} is in use")] == fixture.router.sent


def test_nothing_is_opened_while_the_service_stops(fixture: FollowerFixture) -> None:
    fixture.phase.stopping = True
    fixture.follower.prepare(PrepareConfig(3, {"ts": "127.0.0.1:0"}))
    assert {} == fixture.listeners.prepared
    assert [ConfigPrepared(3, "the service is being stopped")] == fixture.router.sent


def test_a_kept_configuration_is_followed(fixture: FollowerFixture) -> None:
    """Listeners, the number of relays, and how long a stop drains."""
    fixture.write(relays=1, drain_s=99)
    fixture.keep()
    fixture.follower.commit()
    assert (1, 99.0) == (fixture.relays.wanted, fixture.phase.drain_s)
    assert [1] == [settings.global_.relays for settings in fixture.listeners.followed]
    assert [ConfigCommitted([7])] == fixture.router.sent


def test_without_a_process_to_spare_the_router_is_answered_all_the_same(fixture: FollowerFixture) -> None:
    """It waits for the answer; relays are started when there is one again."""
    fixture.relays.failing = True
    fixture.follower.commit()
    assert [ConfigCommitted([])] == fixture.router.sent
    assert ["process_not_started"] == fixture.happened()
    ((_, start),) = fixture.later
    start()
    assert 1 == fixture.relays.missing_started


def test_a_configuration_that_cannot_be_read_leaves_the_listeners(fixture: FollowerFixture) -> None:
    fixture.file.unlink()
    running_config.kept_file(fixture.config.running).write_text("{")
    fixture.follower.follow()
    assert ([], ["config_not_read"]) == (fixture.listeners.followed, fixture.happened())
