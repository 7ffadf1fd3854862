"""Addresses as arguments of the lab's commands, which share this."""

import contextlib
import ipaddress
from typing import Any

import click

from rdpbalancer.model import Endpoint


class Address(click.ParamType[Endpoint]):
    """IP:PORT with IPv6 in brackets, or an IP address alone: then with `port`. The lab looks no names up."""

    name = "address"

    def __init__(self, port: int) -> None:
        self._port = port

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Endpoint:
        """Return the endpoint."""
        if isinstance(value, Endpoint):
            return value
        with contextlib.suppress(ValueError):
            return Endpoint(str(ipaddress.ip_address(value.strip("[]"))), self._port)
        host, _, port = value.rpartition(":")
        with contextlib.suppress(ValueError):
            if port.isdecimal() and int(port) <= 65535:
                return Endpoint(str(ipaddress.ip_address(host.strip("[]"))), int(port))
        return self.fail(f"{value!r} is no IP address and port, as in 127.0.0.1:3389", param, ctx)
