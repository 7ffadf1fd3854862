"""Durations, addresses, networks and rates: what they look like in the file, and their values.

Every `parse_*` takes what stands in the file and raises `ValueError` with a text for the administrator;
each has its inverse, so that a value is shown as it may be written.
"""

import ipaddress
import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from rdpbalancer.model import Endpoint
from rdpbalancer.settings.error_text import quoted, shown

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

UNITS_MS: Final = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
DURATION_PATTERN: Final = r"([0-9]{1,12}(?:\.[0-9]{1,6})?)(ms|s|m|h|d)"
# A duration beyond a year is a slip of the pen, and beyond what the timers of the system are tried with.
MAX_DURATION_S: Final = 365 * 86_400.0
# More per interval than any farm accepts; a limit above it is no limit.
MAX_RATE_COUNT: Final = 1_000_000

_DURATION = re.compile(DURATION_PATTERN)
_RATE = re.compile(r"([0-9]{1,9})/(.+)")
_BRACKETED = re.compile(r"\[([^\[\]]*)\](?::(.*))?")
# RFC 1123, 2.1, and the underscore that Windows allows in computer names.
_LABEL = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
_SCOPE = re.compile(r"[A-Za-z0-9._-]{1,15}")  # an interface's name, IFNAMSIZ - 1


@dataclass(frozen=True, slots=True)
class Rate:
    """At most `count` in `interval_s` seconds. A count of 0 means no limit."""

    count: int
    interval_s: float

    def __str__(self) -> str:
        return f"{self.count}/{format_duration(self.interval_s)}"


def parse_duration_s(value: object) -> float:
    """Return a duration's seconds: `500ms`, `30s`, `1.5h`, `1d`, or a bare 0."""
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    text = _text(text, "a duration such as 500ms, 30s, 1m, 1h or 1d")
    if text == "0":
        return 0.0
    if re.fullmatch(r"-?[0-9.]+", text):
        raise ValueError(f"a duration needs a unit (ms, s, m, h, d): write {text}s for {text} seconds")
    found = _DURATION.fullmatch(text)
    if found is None:
        raise ValueError(
            f"expected a number and one unit (ms, s, m, h, d), such as 500ms, 30s or 1h, got {quoted(text)}"
        )
    seconds = float(Decimal(found[1]) * UNITS_MS[found[2]] / 1000)
    if seconds > MAX_DURATION_S:
        raise ValueError(f"{quoted(text)} is too long: at most 365d")
    return seconds


def format_duration(seconds: float) -> str:
    """Write `seconds` in the largest unit that needs no fraction; below a millisecond it is rounded."""
    milliseconds = round(seconds * 1000)
    if milliseconds == 0:
        return "0s"
    unit = max((unit for unit in UNITS_MS if milliseconds % UNITS_MS[unit] == 0), key=UNITS_MS.__getitem__)
    return f"{milliseconds // UNITS_MS[unit]}{unit}"


def parse_rate(value: object) -> Rate:
    """Return the rate of `N/interval`, such as `20/10s`; `0/10s` means no limit."""
    expected = "a rate such as 20/10s (0/10s: no limit)"
    found = _RATE.fullmatch(_text(value, expected))
    if found is None:
        raise ValueError(f"expected {expected}, got {shown(value)}")
    rate = Rate(int(found[1]), parse_duration_s(found[2]))
    if rate.count > MAX_RATE_COUNT:
        raise ValueError(f"{rate.count} is too many: at most {MAX_RATE_COUNT}; 0/10s means no limit")
    if rate.interval_s <= 0:
        raise ValueError("the interval of a rate is longer than 0: write 0/10s for no limit")
    return rate


def parse_network(value: object) -> Network:
    """Return the network of `10.0.0.0/8` or `fd00::/8`; an address alone is the network of that one."""
    expected = "a network such as 192.168.0.0/16 or fd00::/8"
    text = _text(value, expected)
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f"expected {expected}, got {quoted(text)}") from None
    if ipaddress.ip_interface(text).ip != network.network_address:
        raise ValueError(f"{quoted(text)} is an address inside a network: write {network} for all of it")
    return network


def parse_endpoint(value: object, *, names: bool = False, listening: bool = False) -> Endpoint:
    """Return the address and port of `192.168.2.190:3389`, `[fd00::1]:3389` or `ts1.example.com:3389`.

    `names`: the host may be a name. `listening`: it is an address of our own, so that port 0 (any free port),
    0.0.0.0 and [::] (all addresses) have a meaning.
    Hosts come out in one spelling (names in lower case, IPv6 compressed), so that equal ones compare equal.
    """
    text = _text(value, "an address and port such as '192.168.2.190:3389'")
    if bracketed := _BRACKETED.fullmatch(text):
        host, port = _ipv6(bracketed[1]), bracketed[2]
    elif text.count(":") > 1:
        raise ValueError(f"{quoted(text)}: put an IPv6 address in brackets, such as '[fd00::1]:3389'")
    else:
        host, _, port = text.partition(":")
        host = _host(host, names=names)
    if not port:
        raise ValueError(f"{quoted(text)} has no port: write {quoted(text.rstrip(':') + ':3389')}")
    if not listening and host in {"0.0.0.0", "::"}:  # noqa: S104  refused here
        raise ValueError(f"{quoted(text)} stands for all addresses: write the server's own")
    return Endpoint(host, _port(port, lowest=0 if listening else 1))


def _text(value: object, expected: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"expected {expected}, got {shown(value)}")  # noqa: TRY004  pydantic collects ValueErrors only
    return value


def _port(text: str, *, lowest: int) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", text) or not lowest <= int(text) <= 65535:
        raise ValueError(f"port {quoted(text)} is not a number from {lowest} to 65535")
    return int(text)


def _ipv6(text: str) -> str:
    try:
        address = ipaddress.IPv6Address(text)
    except ValueError:
        raise ValueError(f"{quoted(text)} is not an IPv6 address") from None
    if address.scope_id is not None and not _SCOPE.fullmatch(address.scope_id):
        raise ValueError(f"{quoted(text)}: what follows % is not an interface's name")
    return str(address)


def _host(text: str, *, names: bool) -> str:
    if text in {"", "*"}:
        raise ValueError("the address is missing: 0.0.0.0 stands for all of IPv4, [::] for all of IPv6")
    if re.fullmatch(r"[0-9.]+", text):
        try:
            return str(ipaddress.IPv4Address(text))
        except ValueError:
            raise ValueError(f"{quoted(text)} is not an IPv4 address") from None
    if not names:
        raise ValueError(f"{quoted(text)} is not an IP address, and a name is not possible here")
    # RFC 1035, 2.3.4: 255 bytes on the wire leave 253 characters.
    if len(text) > 253 or not all(_LABEL.fullmatch(label) for label in text.removesuffix(".").split(".")):
        raise ValueError(f"{quoted(text)} is neither an IP address nor a host name")
    return text.lower()
