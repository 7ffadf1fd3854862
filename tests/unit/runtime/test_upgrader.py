"""Upgrades and their reversal as the supervisor decides them, without processes."""

import signal
import sys
from pathlib import Path
from typing import Any, cast

import pytest

from rdpbalancer.runtime import running_config, upgrade
from rdpbalancer.runtime.phase import Phase
from rdpbalancer.runtime.program import Program
from rdpbalancer.runtime.restarts import Restarts
from rdpbalancer.runtime.running_config import ConfigInUse
from rdpbalancer.runtime.statelock import StateLock
from rdpbalancer.runtime.upgrade import Inherited
from rdpbalancer.runtime.upgrader import Upgrader
from rdpbalancer.telemetry.events import Events
from tests.unit.runtime.supervisor_fakes import FakeListeners, FakeRelays, FakeRouterProcess


class UpgraderFixture:
    """An upgrader over fakes, after an upgrade from `before` if there is one."""

    def __init__(self, folder: Path, before: Program | None) -> None:
        file = folder / "rdpbalancer.yaml"
        file.write_text(
            f"global: {{runtime_dir: {folder}, state_dir: {folder}}}\n"
            "virtual_services: [{name: ts, listen: '127.0.0.1:0',"
            " real_servers: [{name: a, address: '192.0.2.1:3389'}]}]\n"
        )
        running = running_config.read(file, environ={})
        running_config.keep(running)
        self.phase = Phase()
        self.router = FakeRouterProcess()
        self.relays = FakeRelays()
        self.events = Events()
        self.later: list[Any] = []
        self.started: list[str] = []
        inherited = Inherited(4, str(running_config.kept_file(running)), [], [], 10.0, before=before)
        self.upgrader = Upgrader(
            program=Program(sys.executable, "1.0"),
            config=ConfigInUse(running),
            inherited=inherited if before is not None else None,
            phase=self.phase,
            listeners=cast("Any", FakeListeners()),
            relays=cast("Any", self.relays),
            router=cast("Any", self.router),
            restarts=Restarts(
                clock=lambda: 0.0, call_later=lambda *call: self.later.append(call), events=self.events
            ),
            state_lock=StateLock(self.events),
            events=self.events,
            clock=lambda: 0.0,
            start_router=lambda: self.started.append("router"),
        )

    def happened(self) -> list[str]:
        """Return the events' names."""
        return [event["event"] for event in self.events.recent()]


async def test_all_that_died_is_started_where_there_is_no_way_back(tmp_path: Path) -> None:
    """A new version whose processes died, and whose predecessor does not start, goes on with its own."""
    fixture = UpgraderFixture(tmp_path, Program(str(tmp_path / "python-that-was-removed"), "0.9"))
    fixture.phase.reverting = True
    fixture.router.child = None
    await fixture.upgrader.revert("its relay ended: exit status 1")
    for _, start in fixture.later:
        start()
    assert (["router"], 1) == (fixture.started, fixture.relays.missing_started)
    assert not fixture.phase.reverting
    assert ["upgrade_reverting", "upgrade_not_reverted"] == fixture.happened()


async def test_without_a_program_before_nothing_is_reverted(tmp_path: Path) -> None:
    fixture = UpgraderFixture(tmp_path, None)
    await fixture.upgrader.revert("whatever")
    fixture.upgrader.revert_at_once("whatever")
    assert [] == fixture.happened()


def test_generations_are_counted_from_the_first_program(tmp_path: Path) -> None:
    assert 0 == UpgraderFixture(tmp_path, None).upgrader.generation
    assert 4 == UpgraderFixture(tmp_path, Program(sys.executable, "0.9")).upgrader.generation


@pytest.mark.parametrize("broken", ["memfd_create", "execve"])
def test_a_program_that_cannot_be_become_leaves_signals_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    """No descriptor or memory left: the old program goes on, and must hear SIGTERM."""

    def refuse(*_: object) -> int:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(f"os.{broken}", refuse)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    upgrade.hold_signals()
    program, left = Program(sys.executable, "1.0"), Inherited(1, "", [], [], 0.0)
    with pytest.raises(OSError, match="Too many"):
        upgrade.become(program, left, tmp_path)
    assert before == signal.pthread_sigmask(signal.SIG_BLOCK, [])
