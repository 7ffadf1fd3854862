"""The few MCS, licensing and redirection packets that bring a real client to a Server Redirection PDU.

Only what MS-RDPBCGR makes a client accept before it obeys: no encryption, no graphics, no input. Pure.
"""

import struct
from typing import Final

from rdpbalancer.lab.channel import LabError

IO_CHANNEL: Final = 1003  # MS-RDPBCGR 3.2.5.3.4: the first static channel is 1004
USER_CHANNEL: Final = 1007
MAX_STATIC_CHANNELS: Final = 31  # MS-RDPBCGR 2.2.1.3.4

# Domain MCS PDUs by their T.125 choice number: the upper six bits of the first byte.
ERECT_DOMAIN: Final = 1
ATTACH_USER: Final = 10
CHANNEL_JOIN: Final = 14
SEND_DATA: Final = 25

MAX_USER_BYTES: Final = 512  # MS-RDPBCGR 2.2.1.11.1.1: a user name with its terminator

_CS_NET: Final = b"\x03\xc0"
_PDU_TYPE_REDIRECT: Final = 0x001A  # PDUTYPE_SERVER_REDIR_PKT 10, protocol version 1
_SEC_REDIRECTION: Final = 0x0400
_LB_LOAD_BALANCE_INFO: Final = 0x0002
_SEC_INFO_PKT: Final = 0x0040
_INFO_UNICODE: Final = 0x0010
_INFO_FIXED_BYTES: Final = 4 + 18  # security header; code page, flags and five lengths

# BER and GCC preambles of a Connect Response: result successful, connect id 0, domain parameters
# (34 channels, 3 users, no tokens, throughput 0, 1 layer, 65,528 bytes per PDU, version 2).
_CONNECT_RESPONSE: Final = bytes.fromhex(
    "0a0100020100301a020122020103020100020101020100020101020300fff8020102"
)
_CONFERENCE: Final = bytes.fromhex("000500147c00012a14760a01010001c0004d63446e")  # ... "McDn"


def data_packet(data: bytes) -> bytes:
    """Wrap `data` in TPKT and an X.224 Data TPDU (RFC 1006; X.224 13.7)."""
    return struct.pack(">BBH", 3, 0, 7 + len(data)) + b"\x02\xf0\x80" + data


def channel_count(connect_initial: bytes) -> int:
    """Return how many static channels the client asks for (CS_NET, MS-RDPBCGR 2.2.1.3.4).

    Layout: type 0xC003 u16le, length u16le, count u32le, then 12 bytes per channel. A block is believed
    only if its length agrees with its count, so its type may be searched for without parsing GCC.
    """
    at = connect_initial.find(_CS_NET)
    while 0 <= at <= len(connect_initial) - 8:
        length, count = struct.unpack_from("<HI", connect_initial, at + 2)
        if count <= MAX_STATIC_CHANNELS and length == 8 + 12 * count:
            return int(count)
        at = connect_initial.find(_CS_NET, at + 1)
    return 0


def connect_response(*, requested_protocols: int, channels: int) -> bytes:
    """Build the MCS Connect Response: RDP 5, no encryption, as many channels as asked (2.2.1.4)."""
    core = struct.pack("<HHII", 0x0C01, 12, 0x00080004, requested_protocols)
    security = struct.pack("<HHII", 0x0C02, 12, 0, 0)
    ids = struct.pack(f"<{channels}H", *range(IO_CHANNEL + 1, IO_CHANNEL + 1 + channels))
    padding = b"\0\0" * (channels % 2)
    network = struct.pack("<HHHH", 0x0C03, 8 + len(ids + padding), IO_CHANNEL, channels) + ids + padding
    blocks = core + security + network
    conference = _CONFERENCE + _per_length(len(blocks)) + blocks
    body = _CONNECT_RESPONSE + b"\x04" + _ber_length(len(conference)) + conference
    return data_packet(b"\x7f\x66" + _ber_length(len(body)) + body)


def domain_pdu(packet: bytes) -> int:
    """Return which Domain MCS PDU a data packet holds. Raises LabError ``unexpected-answer`` if none."""
    if len(packet) < 8 or packet[5] != 0xF0:
        raise LabError("unexpected-answer", f"expected an MCS packet, got {packet[:16].hex()}")
    return packet[7] >> 2


def attach_user_confirm() -> bytes:
    """Build the answer to Attach User: granted, user channel 1007 (T.125: less its base 1001)."""
    return data_packet(b"\x2e\x00" + struct.pack(">H", USER_CHANNEL - 1001))


def channel_join_confirm(request: bytes) -> bytes:
    """Build the answer to a Channel Join: granted, as asked. Raises LabError ``unexpected-answer``."""
    if len(request) < 12:
        raise LabError("unexpected-answer", f"a channel join of {len(request)} bytes is too short")
    initiator, channel = request[8:10], request[10:12]
    return data_packet(b"\x3e\x00" + initiator + channel + channel)


def license_valid_client() -> bytes:
    """Build the license message "no license needed" (2.2.1.12.1.3); 2.11 ignores a redirection before it."""
    message = struct.pack("<BBHIIHH", 0xFF, 0x03, 16, 7, 2, 4, 0)  # STATUS_VALID_CLIENT, ST_NO_TRANSITION
    return _send_data_indication(struct.pack("<HH", 0x0080, 0) + message)


def server_redirection(token: bytes) -> bytes:
    """Build a Standard Security Server Redirection PDU that says no more than `token` (2.2.13.2.1).

    The token is sent as it is; CR LF behind it belongs to it. Share control header: length, type,
    source, then 2 bytes of padding; 8 bytes of padding end the packet (2.2.13.1).
    """
    info = struct.pack("<I", len(token)) + token
    packet = (
        struct.pack("<HHII", _SEC_REDIRECTION, 12 + len(info) + 8, 0, _LB_LOAD_BALANCE_INFO) + info + bytes(8)
    )
    return _send_data_indication(struct.pack("<HHHH", 8 + len(packet), _PDU_TYPE_REDIRECT, 1002, 0) + packet)


def client_info_user(packet: bytes) -> str | None:
    """Return the user name in a Client Info PDU (2.2.1.11); None: this is another PDU, or names nobody.

    Layout behind MCS: security flags u16le, u16; code page u32, flags u32le; lengths of domain, user,
    password, shell, directory u16le each, without terminators; then the strings with them.
    """
    data = _send_data_request(packet)
    if len(data) < _INFO_FIXED_BYTES or not data[0] & _SEC_INFO_PKT:
        return None
    flags, domain_bytes, user_bytes = struct.unpack_from("<IHH", data, 8)
    unicode = bool(flags & _INFO_UNICODE)
    start = _INFO_FIXED_BYTES + domain_bytes + (2 if unicode else 1)
    raw = data[start : start + min(user_bytes, MAX_USER_BYTES)]
    return raw.decode("utf-16-le" if unicode else "latin-1", errors="replace").rstrip("\0") or None


def _send_data_request(packet: bytes) -> bytes:
    """Return what a Send Data Request carries: choice, initiator u16, channel u16, flags, PER length."""
    if len(packet) < 15:
        return b""
    return packet[15:] if packet[13] & 0x80 else packet[14:]


def _send_data_indication(data: bytes) -> bytes:
    header = struct.pack(">BHHB", 0x68, 1, IO_CHANNEL, 0x70)  # initiator 1002 (less 1001), high priority
    return data_packet(header + _per_length(len(data)) + data)


def _ber_length(length: int) -> bytes:
    if length < 0x80:
        return bytes([length])
    return struct.pack(">BB", 0x81, length) if length < 0x100 else struct.pack(">BH", 0x82, length)


def _per_length(length: int) -> bytes:
    return bytes([length]) if length < 0x80 else struct.pack(">H", length | 0x8000)
