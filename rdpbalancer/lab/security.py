"""What a simulated server answers to a Connection Request, by its `security` setting.

The setting decides, not what the client offers: a lab server must be able to answer wrongly.
"""

from collections.abc import Callable
from functools import partial
from typing import Final, NamedTuple

from rdpbalancer.lab.channel import LabError
from rdpbalancer.wire.confirm import SecurityProtocol, build_confirm, build_failure
from rdpbalancer.wire.request import ConnectionRequest

# xrdp 0.9 refuses a request so: an MCS Disconnect Provider Ultimatum in a data packet, no confirm at all.
MCS_DISCONNECT: Final = bytes.fromhex("0300000902f0802180")

_DST_REF: Final = slice(6, 8)  # behind TPKT (4), length indicator, code
_SRC_REF: Final = slice(8, 10)


class SecurityAnswer(NamedTuple):
    """Bytes to send, possibly none, and whether the connection is closed behind them."""

    data: bytes
    then_close: bool = False


Answering = Callable[[ConnectionRequest, bytes], SecurityAnswer]


def answering(security: str) -> Answering:
    """Return what answers a request and its bytes. Raises LabError ``bad-option`` for an unknown setting."""
    kind, _, argument = security.partition(":")
    if kind == "failure" and argument.isdecimal() and int(argument) < 2**32:
        return partial(_fail, int(argument))
    if security not in SECURITY:
        known = ", ".join([*SECURITY, "failure:N"])
        raise LabError("bad-option", f"unknown security {security!r}; there are {known}")
    return SECURITY[security]


def _select(protocol: SecurityProtocol, request: ConnectionRequest, _raw: bytes) -> SecurityAnswer:
    # A client that sent no RDP_NEG_REQ gets no negotiation data (MS-RDPBCGR 3.3.5.3.2).
    selected = None if request.requested_protocols is None else int(protocol)
    return SecurityAnswer(build_confirm(selected_protocol=selected))


def _fail(code: int, request: ConnectionRequest, _raw: bytes) -> SecurityAnswer:
    if request.requested_protocols is None:
        return SecurityAnswer(
            b"", then_close=True
        )  # there is no way to say it to a client that did not negotiate
    return SecurityAnswer(build_failure(code), then_close=True)


def _legacy(_request: ConnectionRequest, _raw: bytes) -> SecurityAnswer:
    return SecurityAnswer(
        build_confirm(selected_protocol=None)
    )  # Windows XP and 2003: 11 bytes, whatever is asked


def _mcs_disconnect(_request: ConnectionRequest, _raw: bytes) -> SecurityAnswer:
    return SecurityAnswer(MCS_DISCONNECT, then_close=True)


def _echo_reference(request: ConnectionRequest, raw: bytes) -> SecurityAnswer:
    """Answer as `rdp`, with the request's SRC-REF as DST-REF, which X.224 asks for and Windows ignores."""
    confirm = bytearray(_select(SecurityProtocol.RDP, request, raw).data)
    confirm[_DST_REF] = raw[request.request_offset :][_SRC_REF]
    return SecurityAnswer(bytes(confirm))


SECURITY: Final[dict[str, Answering]] = {
    "rdp": partial(_select, SecurityProtocol.RDP),
    "tls": partial(_select, SecurityProtocol.SSL),
    "nla": partial(_select, SecurityProtocol.HYBRID),
    "legacy": _legacy,
    "mcs-disconnect": _mcs_disconnect,
    "echo-ref": _echo_reference,
}
