"""The supervisor's view of the router process."""

import socket
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from rdpbalancer.ipc import router_messages
from rdpbalancer.runtime import children
from rdpbalancer.runtime.children import Child
from rdpbalancer.runtime.program import Program

# Events of ours that a new router is told of, so that `show events` says why there is a new one.
_EVENTS_TOLD = 100


class RouterProcess:
    """The router: there is one, or none for a moment.

    `on_message(child, message)` gets what it says, `on_ended(child, how)` is called when it has ended.
    """

    def __init__(
        self,
        *,
        program: Program,
        on_message: Callable[[Child, msgspec.Struct], None],
        on_ended: Callable[[Child, str], None],
    ) -> None:
        self._program = program
        self._on_message = on_message
        self._on_ended = on_ended
        self.child: Child | None = None
        # Whether it has said that it is ready.
        self.ready = False

    @property
    def serves(self) -> bool:
        """Whether there is one that is ready and does not make way."""
        return self.child is not None and self.ready and not self.child.retiring

    def start(
        self,
        kept: Path,
        path: Path,
        *,
        hello: router_messages.SupervisorHello,
        listeners: Iterable[tuple[str, str, socket.socket]],
        relays: Iterable[tuple[router_messages.AddRelay, socket.socket]],
        events: Sequence[dict[str, Any]],
    ) -> None:
        """Start one, and give it all that it needs. `kept`, `path`: the configuration. Raises OSError."""
        self.ready = False
        started = children.start(self._program, "router", [str(kept), str(path)], [])
        self.child = Child(
            "router",
            started.pid,
            started.channel,
            failures=started.failures,
            decoder=router_messages.FROM_ROUTER,
            on_message=self._on_message,
            on_exit=self._exited,
        )
        self.send(hello)
        for name, _, sock in listeners:
            self.send(router_messages.AddListener(name), [sock])
        for message, channel in relays:
            self.send(message, [channel])
        for event in events[-_EVENTS_TOLD:]:
            self.send(router_messages.SupervisorEvent(event))
        self.send(router_messages.StartRouter())

    def send(self, message: msgspec.Struct, sockets: Sequence[socket.socket] = ()) -> None:
        """Send a message to it, if there is one, with copies of sockets."""
        if self.child is not None:
            self.child.channel.send(message, [sock.dup() for sock in sockets])

    def kill(self) -> None:
        """End it at once, if there is one."""
        if self.child is not None:
            self.child.kill()

    def _exited(self, child: Child, how: str) -> None:
        self.child = None
        self.ready = False
        self._on_ended(child, how)
