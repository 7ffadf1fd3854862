"""`rdpbalancer token`: which server a routing token names."""

from pathlib import Path
from typing import Any

import pytest

from rdpbalancer.cli.token import address_of
from rdpbalancer.model import Endpoint
from tests.unit.cli import rows
from tests.unit.cli.fake import command, run

TOKEN = "3640205228.15629.0000"
ADDRESS = Endpoint("172.31.249.216", 3389)


@pytest.mark.parametrize(
    "text",
    [TOKEN, f"msts={TOKEN}", f"Cookie: msts={TOKEN}", f"cookie:msts={TOKEN}", f" Cookie: msts={TOKEN}\r\n"],
)
def test_however_much_of_its_line_was_copied(text: str) -> None:
    """From a log, from Wireshark, from a client's options."""
    assert ADDRESS == address_of(text)


@pytest.mark.parametrize(
    "text", ["", "3735928559", "tsv://MS Terminal Services Plugin.1.Farm", "1.2", "256.0.0000"]
)
def test_an_opaque_token_has_no_address(tmp_path: Path, text: str) -> None:
    """Exit status 1: it is nobody's mistake, and there is no answer."""
    done, service = run(tmp_path, "token", text)
    assert (1, "", []) == (done.status, done.out, service.asked)
    assert "an opaque token, which only its maker understands" in done.err


@pytest.mark.parametrize(
    ("said", "whose"),
    [
        ({"address": str(ADDRESS)}, "ts/ts1"),
        ({"token_addresses": [str(ADDRESS)]}, "ts/ts1"),
        ({"address": "ts1.example.net:3389", "resolved": [ADDRESS.host]}, "ts/ts1"),
        (
            {"address": "ts1.example.net:3390", "resolved": [ADDRESS.host]},
            "no configured server has this address",
        ),
        ({}, "no configured server has this address"),
    ],
)
def test_the_server_that_it_names(tmp_path: Path, said: dict[str, Any], whose: str) -> None:
    """By its address, its resolved name, or one of its `token_addresses`."""
    done, _ = run(tmp_path, "token", TOKEN, servers=[[rows.server(**said), rows.server("ts2")]])
    assert (0, f"{ADDRESS}: {whose}\n", "") == (done.status, done.out, done.err)


def test_without_a_service(tmp_path: Path) -> None:
    """The address alone: the token may come from another machine."""
    done = command("token", TOKEN, service=tmp_path / "nothing")
    assert (0, f"{ADDRESS}\n", "") == (done.status, done.out, done.err)
    done = command("token", TOKEN, "--json", service=tmp_path / "nothing")
    assert {"address": str(ADDRESS), "servers": None} == done.json
