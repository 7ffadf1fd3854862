"""The conversation that a real RDP program is led through, up to its redirection (or its desktop).

Proved with xfreerdp 2.11: it reconnects to the same address with the LoadBalanceInfo as its routing
token, and without a cookie. rdesktop 1.9 does not follow.
"""

import asyncio
import contextlib
import ssl
from typing import Final

from rdpbalancer.lab import mcs
from rdpbalancer.lab.channel import LabChannel, LabError, TlsChannel
from rdpbalancer.lab.terminal import Session, TerminalServer

_TLS_HANDSHAKE: Final = b"\x16"  # RFC 8446 5.1, ContentType
_TPKT_VERSION: Final = b"\x03"

MAX_SETUP_PACKETS: Final = 64  # attach, erect, at most 33 joins, client info: more is no client
LEAVING_S: Final = 5.0  # xfreerdp hangs up within milliseconds of a redirection


async def serve_program(server: TerminalServer, session: Session) -> None:
    """Set a real client up; redirect it if its desktop is elsewhere, else hold it on its desktop."""
    channel = await _secured(server, session.channel)
    named = await _set_up(channel, session.received.request.requested_protocols or 0)
    user = named or session.user or "nobody"
    await channel.write(mcs.license_valid_client())
    token = server.redirection(session, user)
    if token is None:
        server.log_in(session, user)
        await channel.drain()
        return
    session.user = user
    server.counters.redirects += 1
    await channel.write(mcs.server_redirection(token + b"\r\n"))
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LEAVING_S):
            await channel.drain()


async def _secured(server: TerminalServer, channel: LabChannel) -> LabChannel:
    """Return the channel to speak MCS over: TLS, if that is what the client begins."""
    first = await channel.read_exactly(1)
    channel.unread(first)
    if first == _TPKT_VERSION:
        return channel
    if first != _TLS_HANDSHAKE:
        raise LabError("unexpected-answer", f"expected MCS or TLS after the confirm, got byte {first.hex()}")
    if server.certificate is None or server.key is None:
        raise LabError("tls", "the client begins TLS, and the server has no certificate: give it one")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(server.certificate, server.key)
    secured = TlsChannel(channel, context)
    await secured.handshake()
    return secured


async def _set_up(channel: LabChannel, requested_protocols: int) -> str | None:
    """Answer everything up to the Client Info PDU; return the user it names (MS-RDPBCGR 1.3.1.1)."""
    initial = await _read_packet(channel)
    channels = mcs.channel_count(initial)
    await channel.write(mcs.connect_response(requested_protocols=requested_protocols, channels=channels))
    for _ in range(MAX_SETUP_PACKETS):
        packet = await _read_packet(channel)
        match mcs.domain_pdu(packet):
            case mcs.ERECT_DOMAIN:
                pass
            case mcs.ATTACH_USER:
                await channel.write(mcs.attach_user_confirm())
            case mcs.CHANNEL_JOIN:
                await channel.write(mcs.channel_join_confirm(packet))
            case mcs.SEND_DATA:
                return mcs.client_info_user(packet)
            case other:
                raise LabError("unexpected-answer", f"MCS PDU {other} does not belong here")
    raise LabError("too-long", f"no Client Info within {MAX_SETUP_PACKETS} packets")


async def _read_packet(channel: LabChannel) -> bytes:
    """Read one TPKT packet, at most 65,535 bytes by its own length field."""
    header = await channel.read_exactly(4)
    length = int.from_bytes(header[2:])
    if header[:1] != _TPKT_VERSION or length < 4:
        raise LabError("unexpected-answer", f"expected a TPKT packet, got {header.hex()}")
    return header + await channel.read_exactly(length - 4)
