"""Asking the feedback agent on a real server for its line."""

import time
from collections.abc import Sequence

from rdpbalancer.core.feedback import MAX_LINE_BYTES, AgentReport, parse_line
from rdpbalancer.errors import RdpBalancerError, ServerError
from rdpbalancer.health.probe import describe
from rdpbalancer.net import dial
from rdpbalancer.net.poller import Poller, run_in_steps

_LINE_ENDS = (b"\r", b"\n", b"\0")


async def ask(
    addresses: Sequence[str], port: int, *, timeout_s: float, waits: Poller | None = None
) -> AgentReport | str:
    """Return what the agent says, dialled as a user's connection is, or in words why there is no answer."""
    deadline_at = time.monotonic() + timeout_s

    async def listen(waits: Poller) -> bytes:
        upstream = await dial.connect(waits, addresses, port, deadline_at=deadline_at)
        try:
            return await _line(upstream, deadline_at)
        finally:
            upstream.close()

    try:
        return parse_line(await run_in_steps(listen, waits))
    except RdpBalancerError as error:
        return describe(error, addresses, f"no line within {timeout_s:g} s")


async def _line(upstream: dial.Upstream, deadline_at: float) -> bytes:
    """Read up to the end of a line, or as much as a line may have. Raises ServerError."""
    data = b""
    while len(data) < MAX_LINE_BYTES and not any(end in data for end in _LINE_ENDS):
        chunk = await upstream.receive(deadline_at=deadline_at, what="line")
        if not chunk:
            break
        data += chunk
    if not data.strip():
        raise ServerError("closed", "it closed without a word")
    return data[:MAX_LINE_BYTES]
