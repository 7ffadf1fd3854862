"""``token``: which server a routing token names."""

import re
import sys
from typing import Any, Final

import click

from rdpbalancer.cli import output
from rdpbalancer.cli.asking import ask, json_option
from rdpbalancer.cli.output import listed
from rdpbalancer.errors import RdpBalancerError
from rdpbalancer.model import Endpoint

# As it is copied: from a log, from Wireshark, from xfreerdp's /load-balance-info, or its numbers alone.
_BEFORE: Final = re.compile(r"(?:cookie:\s*)?(?:msts=)?", re.IGNORECASE)


@click.command("token")
@click.argument("text")
@json_option
@click.pass_context
def decode_token(context: click.Context, text: str, *, as_json: bool) -> None:
    """Decode a routing token: the address in it, and the server that has it if the service answers."""
    address = address_of(text)
    if address is None:
        output.complain(
            f"no address can be read from {text}: an opaque token, which only its maker understands"
        )
        sys.exit(output.EXIT_FAILED)
    try:
        servers: list[str] | None = named_by(address, ask(context, "servers"))
    except RdpBalancerError:
        servers = None  # the address is what was asked for; the service need not run here
    if as_json:
        output.print_json({"address": str(address), "servers": servers})
    else:
        output.say(f"{address}{_whose(servers)}")


def address_of(text: str) -> Endpoint | None:
    """Return the address in a token, however much of its line was copied; None: it has none."""
    from rdpbalancer.wire.token import decode_msts

    numbers = text.strip()[_BEFORE.match(text.strip()).end() :]  # type: ignore[union-attr]  # it may be empty
    return decode_msts(f"Cookie: msts={numbers}".encode())


def named_by(address: Endpoint, rows: list[dict[str, Any]]) -> list[str]:
    """Return the servers that a token with this address may select: by it, or by one of their others."""
    return [
        f"{row['service']}/{row['name']}"
        for row in rows
        if str(address) in [row["address"], *row.get("token_addresses", [])]
        or (address.host in row.get("resolved", []) and row["address"].endswith(f":{address.port}"))
    ]


def _whose(servers: list[str] | None) -> str:
    if servers is None:
        return ""
    return f": {listed(servers, most=10)}" if servers else ": no configured server has this address"


COMMANDS = [decode_token]
