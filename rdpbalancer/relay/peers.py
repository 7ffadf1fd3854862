"""Peers that have stopped reading, told apart from peers that are gone.

TCP_USER_TIMEOUT ends a connection whose data is not acknowledged for that long. It is what notices a machine
that vanished with data on its way. But Linux ends by it, too, a connection whose peer acknowledges every
window probe and only has no room (a zero window): a client that is frozen, minimised behind a dialog, stopped
by its debugger. It must stay, for it will read on. TCP's state tells the two apart; nothing else does.
"""

import socket
import struct
from enum import Enum, auto
from typing import Final, NamedTuple

# What sessions come with (`net.options`), and what they get back.
USER_TIMEOUT_MS: Final = 105_000
# How often a session is looked at that has data under way: several times before the kernel would end it.
LOOK_S: Final = 15.0
# Unanswered window probes after which a peer that has acknowledged nothing for the user timeout is gone. The
# kernel doubles the time between probes up to 120 s: of a peer that was stopped for long, this takes minutes.
PROBES: Final = 3

# struct tcp_info of linux/tcp.h: probes u8 at 3; u32 each: unacked at 24, last_ack_recv (ms) at 56,
# notsent_bytes at 144, snd_wnd at 228 (Linux 5.4).
_TCP_INFO_BYTES: Final = 232
_U32: Final = struct.Struct("=I")


class PeerState(Enum):
    """What the other end of a connection does with the data that was sent to it."""

    HAS_ALL = auto()
    ACKNOWLEDGES = auto()  # or does not, and the user timeout counts
    STOPPED_READING = auto()
    GONE = auto()


class SendState(NamedTuple):
    """What TCP knows of the data sent on a connection.

    `unacked` in segments, `unsent` in bytes, `window` in bytes as the peer last said, `probes`: window probes
    without an answer, `silent_ms`: since the peer's last acknowledgement.
    """

    unacked: int
    unsent: int
    window: int
    probes: int
    silent_ms: int


def judge(state: SendState, *, user_timeout_ms: int) -> PeerState:
    """Return what the peer does with the data sent to it."""
    if not state.unacked and not state.unsent:
        return PeerState.HAS_ALL
    # Unsent with nothing on its way: there is no room for it. On its way, and no window: it was shrunk.
    if state.window if state.unacked else not state.unsent:
        return PeerState.ACKNOWLEDGES
    if state.probes >= PROBES and state.silent_ms >= user_timeout_ms:
        return PeerState.GONE
    return PeerState.STOPPED_READING


def send_state(sock: socket.socket) -> SendState | None:
    """Ask TCP. None: the connection is no TCP (tests), or the kernel is too old to tell."""
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
    except OSError:
        return None
    if len(info) < _TCP_INFO_BYTES:
        return None
    unacked, silent_ms, unsent, window = (_U32.unpack_from(info, at)[0] for at in (24, 56, 144, 228))
    return SendState(unacked, unsent, window, info[3], silent_ms)


def set_user_timeout(sock: socket.socket, timeout_ms: int) -> None:
    """Set TCP_USER_TIMEOUT, 0: none. A connection that has just broken is left to whoever reads it next."""
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, timeout_ms)
    except OSError:
        return
