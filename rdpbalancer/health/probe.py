"""One look at a real server: does it connect, and does it speak RDP?"""

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass

from rdpbalancer.errors import ProtocolError
from rdpbalancer.wire.confirm import PROBE, parse_confirm

# A Connection Confirm has 19 bytes; whatever a server says beyond that is not read.
_REPLY_BYTES = 512


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What a check found. `detail` says in words what is wrong, or which answer came."""

    ok: bool
    detail: str
    duration_s: float


async def check(
    kind: str, addresses: Sequence[str], port: int, *, timeout_s: float, preamble: bytes = b""
) -> CheckResult:
    """Check a server at the first of its addresses that answers: `kind` is ``rdp`` or ``tcp``.

    ``rdp`` sends a Connection Request that offers TLS and NLA and wants a Connection Confirm of any kind, a
    negotiation failure included: only a terminal server answers that. `preamble` is sent before it (PROXY
    protocol). The whole check takes at most `timeout_s`.
    """
    loop = asyncio.get_running_loop()
    began_at = loop.time()
    try:
        async with asyncio.timeout(timeout_s):
            detail = await _check_any(kind, addresses, port, preamble)
        ok = True
    except TimeoutError:
        ok, detail = False, f"no answer within {timeout_s:g} s"
    except (OSError, ProtocolError) as error:
        ok, detail = False, describe(error)
    return CheckResult(ok, detail, loop.time() - began_at)


def describe(error: Exception) -> str:
    """Say in words what went wrong on a connection."""
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    return str(error)


async def _check_any(kind: str, addresses: Sequence[str], port: int, preamble: bytes) -> str:
    if not addresses:
        message = "its name could not be resolved"
        raise OSError(message)
    for address in addresses[:-1]:
        try:
            return await _check_one(kind, address, port, preamble)
        except (OSError, ProtocolError):
            continue
    return await _check_one(kind, addresses[-1], port, preamble)


async def _check_one(kind: str, address: str, port: int, preamble: bytes) -> str:
    reader, writer = await asyncio.open_connection(address, port, limit=_REPLY_BYTES)
    try:
        if kind == "tcp":
            return "connected"
        writer.write(preamble + PROBE)
        data = b""
        while (confirm := parse_confirm(data)) is None:
            chunk = await reader.read(_REPLY_BYTES)
            if not chunk:
                message = "it closed without a Connection Confirm"
                raise OSError(message)
            data += chunk
        return (
            "confirmed" if confirm.failure is None else f"confirmed (negotiation failure {confirm.failure})"
        )
    finally:
        # Aborted, not closed: checks every other second would otherwise leave sockets in TIME_WAIT.
        writer.transport.abort()
