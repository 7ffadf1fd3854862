"""Addresses as arguments of the lab's commands, which share this."""

import contextlib
import ipaddress
import re
from typing import Any

import click

from rdpbalancer.model import Endpoint


class Address(click.ParamType[Endpoint]):
    """IP:PORT with IPv6 in brackets, or an IP address alone: then with `port`. `names`: host names, too."""

    name = "address"

    def __init__(self, port: int, *, names: bool = False) -> None:
        self._port = port
        self._names = names

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Endpoint:
        """Return the endpoint."""
        if isinstance(value, Endpoint):
            return value
        with contextlib.suppress(ValueError):
            return Endpoint(str(ipaddress.ip_address(value.strip("[]"))), self._port)
        host, colon, port = value.rpartition(":")
        if not colon:
            host, port = value, str(self._port)
        if port.isascii() and port.isdecimal() and int(port) <= 65535:
            with contextlib.suppress(ValueError):
                return Endpoint(str(ipaddress.ip_address(host.strip("[]"))), int(port))
            if self._names and _HOST_NAME.fullmatch(host):
                return Endpoint(host, int(port))
        what = "address or host name" if self._names else "IP address"
        return self.fail(f"{value!r} is no {what} and port, as in 127.0.0.1:3389", param, ctx)


# Not what could be a mistyped IP address: names of digits alone exist in no DNS.
_HOST_NAME = re.compile(r"(?=.*[A-Za-z])[A-Za-z0-9_]([A-Za-z0-9_.-]{0,251}[A-Za-z0-9_.])?")
