"""Resolving the names of real servers, at start and again and again."""

import asyncio
import socket
from ipaddress import ip_address

# The first pause after a name could not be resolved: its record or line in /etc/hosts may just be written.
_FIRST_RETRY_S = 1.0


def literal(host: str) -> str | None:
    """Return `host` if it is an IP address, None if it is a name."""
    try:
        return str(ip_address(host))
    except ValueError:
        return None


def retry_s(failures: int, *, interval_s: float) -> float:
    """Return the pause after so many failures in a row (at least one): doubled each time, to the interval."""
    return min(interval_s, _FIRST_RETRY_S * 2.0 ** min(failures - 1, 32))


async def resolve(host: str, *, timeout_s: float = 5.0) -> tuple[str, ...] | str:
    """Return the IP addresses of `host`, IPv4 and IPv6 as the system orders them, or in words why not."""
    if (address := literal(host)) is not None:
        return (address,)
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(timeout_s):
            found = await loop.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except TimeoutError:
        return f"the name {host} was not resolved within {timeout_s:g} s"
    except OSError as error:
        return f"the name {host} cannot be resolved: {error.strerror or error}"
    return tuple(dict.fromkeys(str(entry[4][0]) for entry in found))
