"""One connection to the control socket, and how long it may stay as it is."""

import socket
from dataclasses import dataclass, field
from typing import Final

from rdpbalancer.control.peer import ControlPeer

# From the first byte of a command (or from the connection, before the first command) to its end.
COMMAND_S: Final = 10.0
# Between two commands.
IDLE_S: Final = 60.0
# For the whole answer to be taken. `| less` reads it at once; what reads nothing is stuck.
ANSWER_S: Final = 30.0
# After a last answer: for what the client still sends, so that the close does not reset the connection.
_LINGER_S: Final = 1.0


@dataclass(slots=True, eq=False)
class ControlConnection:
    """One connection. `since`: when it began to be as it is now (monotonic)."""

    sock: socket.socket
    peer: ControlPeer
    since: float
    received: bytearray = field(default_factory=bytearray)
    unsent: memoryview | None = None
    working: bool = False
    asked: bool = False
    ended: bool = False  # it says no more
    last: bool = False  # it gets no more than the answer that is under way
    closing: bool = False
    gone: bool = False

    def deadline_s(self) -> float | None:
        """How long it may stay as it is; None: until its command is carried out."""
        if self.working:
            return None
        if self.closing:
            return _LINGER_S
        if self.unsent is not None:
            return ANSWER_S
        return COMMAND_S if self.received or not self.asked else IDLE_S
