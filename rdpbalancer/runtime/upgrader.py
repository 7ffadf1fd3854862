"""The supervisor's upgrades: to newly installed code, and back where that does not work."""

import asyncio
import os
import signal
import time
from collections.abc import Callable

from rdpbalancer import __version__
from rdpbalancer.errors import ConfigurationError
from rdpbalancer.ipc.router_messages import RetireRouter, UpgradeAnswer
from rdpbalancer.runtime import program as programs
from rdpbalancer.runtime import running_config, upgrade
from rdpbalancer.runtime.children import Child
from rdpbalancer.runtime.open_listeners import OpenListeners
from rdpbalancer.runtime.phase import Phase
from rdpbalancer.runtime.program import Program
from rdpbalancer.runtime.relay_processes import RelayProcesses
from rdpbalancer.runtime.restarts import Restarts
from rdpbalancer.runtime.router_process import RouterProcess
from rdpbalancer.runtime.running_config import ConfigInUse
from rdpbalancer.runtime.statelock import StateLock
from rdpbalancer.runtime.trial import Trial
from rdpbalancer.runtime.upgrade import Inherited, Reverted
from rdpbalancer.tasks import spawn
from rdpbalancer.telemetry.events import Events

# Turns of the loop that a signal needs from the kernel to its handler.
_LAST_SIGNALS_S = 0.02


class Upgrader:
    """Leaves all that must outlive this program to another one, and takes over what one has left."""

    def __init__(
        self,
        *,
        program: Program,
        config: ConfigInUse,
        inherited: Inherited | None,
        phase: Phase,
        listeners: OpenListeners,
        relays: RelayProcesses,
        router: RouterProcess,
        restarts: Restarts,
        state_lock: StateLock,
        events: Events,
        clock: Callable[[], float],
        start_router: Callable[[], None],
    ) -> None:
        self._program = program
        self._config = config
        self._inherited = inherited
        self._phase = phase
        self._listeners = listeners
        self._relays = relays
        self._router = router
        self._restarts = restarts
        self._state_lock = state_lock
        self._events = events
        self._clock = clock
        self._start_router = start_router
        self._before = inherited.before if inherited is not None else None
        self._trial: Trial | None = None
        self._code_change_told = False
        self._router_ended = asyncio.Event()
        self.reverted = inherited.reverted if inherited is not None else None

    @property
    def generation(self) -> int:
        """Programs since the service was started."""
        return self._inherited.generation if self._inherited is not None else 0

    # ---- take over ---------------------------------------------------------------------------------

    def take_over(self, inherited: Inherited) -> None:
        """Go on with what the program before this one has left.

        Its relays serve until this one's router is ready and has relays of its own.
        """
        self._listeners.take_over(inherited.listeners)
        self._phase.drain_s = inherited.drain_s
        if inherited.state_lock is not None:
            self._state_lock.take_over(inherited.state_lock)
        else:  # by a version that did not know of it
            try:
                self._state_lock.acquire(self._config.running)
            except ConfigurationError as error:
                self._events.error("state_not_locked", detail=str(error))
        self._relays.take_over(inherited.relays)
        if inherited.before is not None:
            for descriptor in inherited.before.descriptors:
                os.set_inheritable(descriptor, False)
            self._trial = Trial(began_at=self._clock())
        if self.reverted is None:
            outdated = len(self._relays.outdated())
            self._events.info("upgraded", detail=f"to version {__version__}", relays_to_move=outdated)
        else:
            detail = f"back to version {__version__} from {self.reverted.version}: {self.reverted.detail}"
            self._events.error("upgrade_reverted", detail=detail, version=self.reverted.version)

    # ---- to new code -------------------------------------------------------------------------------

    async def upgrade(self, router: Child) -> None:
        """Become the newly installed code, if it shows that it can take over; if not, go on as we are."""
        if self._trial is not None and not self._trial.ready:
            problem = "the upgrade before is not through; wait for its end"
        else:
            kept = running_config.kept_file(self._config.running)
            problem = await upgrade.preflight(programs.newest(), kept, self._config.path)
        if not problem and (self._router.child is not router or self._phase.stopping):
            problem = "the service has been stopped or its router restarted meanwhile"
        if problem:
            self._phase.upgrading = False
            self._events.error("upgrade_refused", detail=problem)
        if self._router.child is router:
            self._router.send(UpgradeAnswer(problem))
        if not problem:
            self._events.info("upgrading", detail=f"from version {__version__}")
            router.retiring = True
            self._router.send(RetireRouter())  # its end brings us to `leave`

    def hold_signals(self, call_later: Callable[[float, Callable[[], None]], object]) -> None:
        """The old router has made way: let signals wait for the new program, and leave to it.

        One that has come is still on its way through the loop; the new program would not see it.
        """
        upgrade.hold_signals()
        call_later(_LAST_SIGNALS_S, self._leave)

    def _leave(self) -> None:
        left = self._left_behind()
        # Without an archive of its own code the program before cannot come back.
        left.before = self._program if self._program.code >= 0 else None
        try:
            upgrade.become(programs.newest(), left, self._config.path, then=self._signals_to_come())
        except OSError as error:
            self._phase.upgrading = False
            self._events.error("upgrade_failed", detail=f"{error}: going on with the old code")
            self._restarts.restart("router", self._start_router)

    def _signals_to_come(self) -> list[signal.Signals]:
        later = {signal.SIGTERM: self._phase.stop_later, signal.SIGHUP: self._phase.reload_later}
        return [number for number in later if later[number]]

    def _left_behind(self) -> Inherited:
        return Inherited(
            generation=self.generation + 1,
            kept=str(running_config.kept_file(self._config.running)),
            listeners=self._listeners.states(),
            relays=self._relays.states(),
            drain_s=self._phase.drain_s,
            state_lock=self._state_lock.descriptor,
        )

    def code_changed(self) -> bool:
        """Whether other code is installed than this; told once. Processes are started from this one still."""
        changed = bool(self._program.installed) and programs.fingerprint() != self._program.installed
        if changed and not self._code_change_told and self._phase.ready:
            detail = (
                f"version {__version__} goes on from memory; `rdpbalancer upgrade` runs what is installed"
            )
            self._events.warning("code_changed", detail=detail)
        self._code_change_told |= changed
        return changed

    # ---- the first minute of new code --------------------------------------------------------------

    def router_ready(self) -> None:
        """This program's router takes connections."""
        if self._trial is not None:
            self._trial.router_ready(self._clock())

    def died(self, role: str, how: str, *, code: str | None = None) -> None:
        """A process has ended by itself; `code`: the mark of its code, None: this one."""
        if self._trial is not None and code in (None, self._program.mark):
            self._trial.died(role, how)
            self.judge(self._clock())

    def router_gone(self) -> None:
        """The router has ended, whatever for."""
        self._router_ended.set()

    def judge(self, now: float) -> None:
        """Go back to the program before if this one does not work; forget that one if this one does."""
        if self._trial is None or self._phase.reverting or self._phase.stopping:
            return
        if why := self._trial.failed(now):
            self._phase.reverting = True
            spawn(self.revert(why), name="revert the upgrade")
        elif self._trial.passed(now):
            self._end_trial()
            self._events.info("upgrade_confirmed", detail=f"version {__version__} has worked for a minute")

    def _end_trial(self) -> None:
        self._trial = None
        if self._before is not None:
            for descriptor in self._before.descriptors:
                os.close(descriptor)
            self._before = None

    # ---- back to the old code ----------------------------------------------------------------------

    async def revert(self, why: str) -> None:
        """Become the program before this one again. Relays and their sessions stay as they are."""
        before = self._before
        if before is None:
            return
        self._events.error("upgrade_reverting", detail=f"version {__version__} is left again: {why}")
        kept = running_config.kept_file(self._config.running)
        problem = await upgrade.preflight(before, kept, self._config.path, rehearse=False)
        if self._phase.stopping:
            return
        if problem:  # what it needs has been replaced, too
            detail = f"version {before.version} cannot come back: {problem}; going on with {__version__}"
            self._go_on(detail)
            return
        upgrade.hold_signals()
        self._router.kill()
        while self._router.child is not None:
            self._router_ended.clear()
            await self._router_ended.wait()
        # As in `hold_signals`.
        await asyncio.sleep(_LAST_SIGNALS_S)
        left = self._left_behind()
        left.reverted = Reverted(__version__, why, time.time())
        try:
            upgrade.become(before, left, self._config.path, then=self._signals_to_come())
        except OSError as error:
            self._go_on(f"{error}; going on with {__version__}")

    def _go_on(self, detail: str) -> None:
        """There is no way back: start again what has died while it was tried."""
        self._phase.reverting = False
        self._end_trial()
        self._events.error("upgrade_not_reverted", detail=detail)
        if self._router.child is None:
            self._restarts.restart("router", self._start_router)
        self._restarts.restart("relay", self._relays.start_missing)

    def revert_at_once(self, why: str) -> None:
        """This supervisor itself does not start: leave what was inherited to the program before, if any."""
        if self._before is None or self._inherited is None:
            return
        self._events.error("upgrade_reverting", detail=f"version {__version__} is left again: {why}")
        if self._router.child is not None:
            self._router.kill()
            os.waitpid(self._router.child.pid, 0)
        try:
            upgrade.go_back(self._before, self._inherited, self._config.path, why)
        except OSError as error:
            self._events.error("upgrade_not_reverted", detail=str(error))
