"""The supervisor's view of the relay processes: how many there are, of which code, and who makes way."""

import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from rdpbalancer.ipc.channel import pair
from rdpbalancer.ipc.relay_messages import FROM_RELAY, PingRelay, PongRelay, StopRelay
from rdpbalancer.ipc.router_messages import AddRelay, ReplaceRelays
from rdpbalancer.runtime import children
from rdpbalancer.runtime.children import Child, last_output
from rdpbalancer.runtime.phase import Phase
from rdpbalancer.runtime.program import Program
from rdpbalancer.runtime.restarts import Restarts
from rdpbalancer.runtime.router_process import RouterProcess
from rdpbalancer.runtime.upgrade import RelayState, taken_over
from rdpbalancer.telemetry.events import Events


@dataclass(slots=True, eq=False)
class _Relay:
    """A relay's process, number and code, and the router's end of its channel, kept for the next router."""

    child: Child
    router_end: socket.socket
    number: int
    code: str


class RelayProcesses:
    """All relays. `wanted`: how many there are to be. `ping_number()`: the number of the last ping.

    `on_died(code, how)` is called when one of them has ended by itself, `on_gone()` at any end.
    """

    def __init__(
        self,
        *,
        program: Program,
        wanted: int,
        phase: Phase,
        router: RouterProcess,
        restarts: Restarts,
        events: Events,
        clock: Callable[[], float],
        ping_number: Callable[[], int],
        on_died: Callable[[str, str], None],
        on_gone: Callable[[], None],
    ) -> None:
        self._program = program
        self.wanted = wanted
        self._phase = phase
        self._router = router
        self._restarts = restarts
        self._events = events
        self._clock = clock
        self._ping_number = ping_number
        self._on_died = on_died
        self._on_gone = on_gone
        self._relays: dict[int, _Relay] = {}
        # After an upgrade: what is there serves until this code has shown that it works.
        self.hold = False

    def __len__(self) -> int:
        return len(self._relays)

    def __iter__(self) -> Iterator[Child]:
        """Yield the processes."""
        return iter([relay.child for relay in self._relays.values()])

    # ---- begin and end -----------------------------------------------------------------------------

    def take_over(self, inherited: list[RelayState]) -> None:
        """Go on with the relays of the program before."""
        self.hold = True
        for left in inherited:
            relay = self._watch(left.pid, taken_over(left.line), left.number, left.code)
            relay.child.retiring = left.retired
            relay.router_end = taken_over(left.router_end)

    def states(self) -> list[RelayState]:
        """Return what is left to the next program."""
        return [
            RelayState(
                pid,
                relay.number,
                relay.child.line.fileno(),
                relay.router_end.fileno(),
                relay.code,
                relay.child.retiring,
            )
            for pid, relay in self._relays.items()
        ]

    def introductions(self) -> list[tuple[AddRelay, socket.socket]]:
        """Return what a new router is told of each, and the channel to it."""
        outdated = self.outdated()
        return [
            # `outdated`: also those that a reload made too many.
            (AddRelay(pid, relay.child.retiring, pid in outdated), relay.router_end)
            for pid, relay in self._relays.items()
        ]

    def stop(self) -> None:
        """Ask all of them to end."""
        for relay in self._relays.values():
            relay.child.channel.send(StopRelay())

    # ---- how many ----------------------------------------------------------------------------------

    def adjust(self) -> list[int]:
        """Start relays that are missing; return those that are too many, which end with their sessions.

        Raises OSError: no process or descriptor is left.
        """
        if self.hold and not self._phase.ready:
            return []
        serving = self._serving()
        for _ in range(self.wanted - len(serving)):
            self._start()
        surplus = serving[self.wanted :]
        for pid in surplus:
            self._relays[pid].child.retiring = True
        return surplus

    def start_missing(self) -> None:
        """Start relays that are missing, unless the service ends. Raises OSError."""
        if self._phase.starts_processes:
            self.adjust()

    def _serving(self) -> list[int]:
        """Return the relays of this code that take sessions."""
        return [
            pid
            for pid, relay in self._relays.items()
            if not relay.child.retiring and relay.code == self._program.mark
        ]

    def outdated(self) -> list[int]:
        """Return the relays that run other code than this, and still take sessions."""
        return [
            pid
            for pid, relay in self._relays.items()
            if relay.code != self._program.mark and not relay.child.retiring
        ]

    def replace_outdated(self) -> None:
        """Have the sessions of earlier code's relays moved, once all relays of this code are there."""
        outdated, serving = self.outdated(), self._serving()
        if not outdated or not self._phase.ready or len(serving) < self.wanted:
            return
        answered = all(self._relays[pid].child.answered for pid in serving)
        if self._router.child is not None and answered:
            for pid in outdated:
                self._relays[pid].child.retiring = True
            self._router.send(ReplaceRelays(outdated))

    # ---- one of them -------------------------------------------------------------------------------

    def _start(self) -> None:
        taken = {relay.number for relay in self._relays.values()}
        number = min(set(range(1, len(taken) + 2)) - taken)
        ours, theirs = pair()
        try:
            started = children.start(self._program, "relay", [str(number)], [theirs])
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        relay = self._watch(
            started.pid, started.channel, number, self._program.mark, started.failures, router_end=ours
        )
        relay.child.channel.send(PingRelay(self._ping_number()))
        self._router.send(AddRelay(started.pid), [ours])

    def _watch(
        self,
        pid: int,
        channel: socket.socket,
        number: int,
        code: str,
        failures: int | None = None,
        *,
        router_end: socket.socket | None = None,
    ) -> _Relay:
        child = Child(
            "relay",
            pid,
            channel,
            failures=failures,
            decoder=FROM_RELAY,
            on_message=self._said,
            on_exit=self._ended,
            on_event=self._reported,
        )
        relay = _Relay(child, router_end or channel, number, code)
        self._relays[pid] = relay
        return relay

    def _said(self, child: Child, message: msgspec.Struct) -> None:
        if isinstance(message, PongRelay):
            child.answered_at, first = self._clock(), not child.answered
            child.answered = True
            if first:
                self.replace_outdated()

    def _reported(self, child: Child, level: str, event: str, fields: dict[str, Any]) -> None:
        """A relay has no log of its own: what it reports stands in ours, under its name."""
        self._events.pass_on(level, event, **fields, process="relay", relay=child.pid)

    def _ended(self, child: Child, how: str) -> None:
        relay = self._relays.pop(child.pid)
        relay.router_end.close()
        self._on_gone()
        if self._phase.stopping or child.retiring:
            return
        detail = f"{how}; a new one is started"
        self._events.error("relay_ended", relay=child.pid, detail=detail, **last_output(child.last_words))
        self._on_died(relay.code, how)
        self._restarts.restart("relay", self.start_missing)
