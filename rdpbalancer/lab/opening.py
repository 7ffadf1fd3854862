"""The bytes with which a simulated client opens a connection. Pure."""

import struct
from dataclasses import dataclass

from rdpbalancer.model import Endpoint
from rdpbalancer.wire.confirm import build_request
from rdpbalancer.wire.proxy import build_proxy
from rdpbalancer.wire.request import Preconnection


@dataclass(frozen=True, kw_only=True, slots=True)
class LabOpening:
    """What a client says first: PROXY header, preconnection PDU, Connection Request, in that order.

    `raw` stands in place of the request, `behind` follows it at once. `proxy_version` 1 or 2 names
    `proxy_source` (by default the client's own address) as the client. With `chunk_bytes` everything is
    sent in pieces of that size, `pause_s` apart. Protocols 11 are what mstsc of Windows 10 offers; 3
    without a cookie would be taken for a health check until the client goes on.
    """

    cookie: str | bytes | None = None
    token: bytes | None = None
    requested_protocols: int | None = 11
    negotiation_flags: int = 0
    correlation_id: bytes | None = None
    preconnection: Preconnection | None = None
    proxy_version: int | None = None
    proxy_source: Endpoint | None = None
    raw: bytes | None = None
    behind: bytes = b""
    chunk_bytes: int | None = None
    pause_s: float = 0.0

    def request(self) -> bytes:
        """Return the preconnection PDU and the request, as a server should receive them."""
        before = b"" if self.preconnection is None else build_preconnection(self.preconnection)
        if self.raw is not None:
            return before + self.raw
        cookie = self.cookie.encode() if isinstance(self.cookie, str) else self.cookie
        return before + build_request(
            cookie=cookie,
            token=self.token,
            requested_protocols=self.requested_protocols,
            negotiation_flags=self.negotiation_flags,
            correlation_id=self.correlation_id,
        )

    def first_bytes(self, *, local: Endpoint, remote: Endpoint) -> bytes:
        """Return everything that is sent before an answer is awaited."""
        header = b""
        if self.proxy_version is not None:
            header = build_proxy(self.proxy_version, self.proxy_source or local, remote)
        return header + self.request() + self.behind


def build_preconnection(pdu: Preconnection) -> bytes:
    """Build an RDP_PRECONNECTION_PDU (MS-RDPEPS 2.2.1.1, 2.2.1.2), little-endian.

    Layout: size u32, flags u32 = 0, version u32, id u32; version 2 adds n u16 and n UTF-16 code units,
    the terminating NUL among them.
    """
    blob = b""
    if pdu.version == 2:
        text = ((pdu.text or "") + "\0").encode("utf-16-le")
        blob = struct.pack("<H", len(text) // 2) + text
    return struct.pack("<IIII", 16 + len(blob), 0, pdu.version, pdu.id) + blob
