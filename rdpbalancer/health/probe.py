"""One look at a real server: does it connect, and does it speak RDP?"""

import os
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from rdpbalancer.errors import ProtocolError, RdpBalancerError, ServerError
from rdpbalancer.net import dial
from rdpbalancer.net.poller import Poller, run_in_steps
from rdpbalancer.wire.confirm import PROBE, parse_confirm


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What a check found. `detail` says in words what is wrong, or which answer came.

    `address`: the one of the server's addresses that has answered. `made` False: it could not be made, for
    want of something of the balancer's own (a port, a descriptor), and says nothing of the server.
    """

    ok: bool
    detail: str
    duration_s: float
    address: str = ""
    made: bool = True


async def check(
    kind: str,
    addresses: Sequence[str],
    port: int,
    *,
    timeout_s: float,
    preamble: bytes = b"",
    waits: Poller | None = None,
) -> CheckResult:
    """Check a server, dialled as a user's connection dials it, by the check of that `kind` in `CHECKS`.

    `preamble` is sent before anything else is (PROXY protocol). The whole check takes at most `timeout_s`.
    """
    began_at = time.monotonic()
    deadline_at = began_at + timeout_s

    async def look(waits: Poller) -> tuple[str, str]:
        upstream = await dial.connect(waits, addresses, port, deadline_at=deadline_at)
        try:
            detail = await CHECKS[kind](upstream, preamble, deadline_at)
        finally:
            upstream.close()
        return detail, upstream.address

    ok, address, made = False, "", True
    try:
        detail, address = await run_in_steps(look, waits)
        ok = True
    except (ServerError, ProtocolError) as error:
        made = error.code != dial.NO_LOCAL_PORT
        detail = describe(error, addresses, f"no answer within {timeout_s:g} s")
    except RdpBalancerError as error:
        made, detail = False, str(error)
    return CheckResult(ok, detail, time.monotonic() - began_at, address, made)


def describe(error: RdpBalancerError, addresses: Sequence[str], too_late: str) -> str:
    """Say in words what went wrong on a connection. `too_late`: the words for an answer that did not come."""
    if not addresses:
        return "its name could not be resolved"
    if error.code in ("timeout", "silent"):
        return too_late
    cause = error.__cause__
    if len(addresses) == 1 and isinstance(cause, OSError) and cause.errno:
        return os.strerror(cause.errno)
    return str(error)


async def _confirmed(upstream: dial.Upstream, preamble: bytes, deadline_at: float) -> str:
    """``rdp``: ask for a Connection Confirm, offering TLS and NLA, and say which came.

    Any will do, a negotiation failure included: only a terminal server answers that. Raises ServerError,
    ProtocolError.
    """
    await upstream.send(preamble + PROBE, deadline_at=deadline_at)
    try:
        data, confirm = await upstream.receive_reply(deadline_at=deadline_at)
    except ServerError as error:
        if error.code != "closed":
            raise
        raise ServerError("closed", "it closed without a Connection Confirm") from error
    confirm = confirm or parse_confirm(data)  # says what it is if it is none
    failure = confirm.failure if confirm is not None else None
    return "confirmed" if failure is None else f"confirmed (negotiation failure {failure})"


async def _connected(_upstream: dial.Upstream, _preamble: bytes, _deadline_at: float) -> str:
    """``tcp``: it has connected, and nothing is asked."""
    return "connected"


# A check is given a connected server, what goes before its question, and its deadline (monotonic). It returns
# in words what it found, or raises what the connection raises.
Check = Callable[[dial.Upstream, bytes, float], Awaitable[str]]
CHECKS: Final[dict[str, Check]] = {"rdp": _confirmed, "tcp": _connected}
