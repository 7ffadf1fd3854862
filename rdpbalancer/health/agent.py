"""Asking the feedback agent on a real server for its line."""

import asyncio
from collections.abc import Sequence

from rdpbalancer.core.feedback import MAX_LINE_BYTES, AgentReport, parse_line
from rdpbalancer.health.probe import describe

_LINE_ENDS = (b"\r", b"\n", b"\0")


async def ask(addresses: Sequence[str], port: int, *, timeout_s: float) -> AgentReport | str:
    """Return what the agent at the first address that answers says, or in words why there is no answer."""
    failure = "its name could not be resolved"
    try:
        async with asyncio.timeout(timeout_s):
            for address in addresses:
                try:
                    return await _ask_one(address, port)
                except OSError as error:
                    failure = describe(error)
    except TimeoutError:
        failure = f"no line within {timeout_s:g} s"
    return failure


async def _ask_one(address: str, port: int) -> AgentReport:
    reader, writer = await asyncio.open_connection(address, port, limit=MAX_LINE_BYTES)
    try:
        data = b""
        while len(data) < MAX_LINE_BYTES and not any(end in data for end in _LINE_ENDS):
            chunk = await reader.read(MAX_LINE_BYTES)
            if not chunk:
                break
            data += chunk
        if not data.strip():
            message = "it closed without a word"
            raise OSError(message)
        return parse_line(data)
    finally:
        writer.transport.abort()
