"""Every list on a real terminal of 80, 100, 132 and 200 columns: names, keys and addresses are whole."""

from pathlib import Path
from typing import Any

import pytest

from rdpbalancer.cli.table import cell_width
from tests.unit.cli import rows
from tests.unit.cli.fake import FakeService, on_a_terminal

WIDTHS = [80, 100, 132, 200]
LONG = "müller.with.a.very.long.name@subsidiary.of.the.holding.example.net"
NAMES = [
    *("alice", "EXAMPLE\\bob", LONG, "用户用户用户用户用户", "мария", "o'brien", "a b", "\N{GRINNING FACE}x"),
    "k" * 200,
]
CLIENTS = ["192.0.2.7:50123", "[2001:db8:1234:5678:9abc:def0:1234:5678]:50123", "[fe80::1%eth0]:1"]


def sessions() -> list[dict[str, Any]]:
    """Return 2,000 sessions of 200 servers."""
    servers = [row["name"] for row in rows.big_farm()]
    return [
        rows.session(
            id=f"5ca1ab1e-{number:x}",
            user=NAMES[number % len(NAMES)] if number % 50 == 0 else f"EXAMPLE\\employee{number:04}",
            client=CLIENTS[number % 3] if number % 40 == 0 else f"10.1.{number // 250}.{number % 250}:50123",
            server=servers[number % 200],
        )
        for number in range(2000)
    ]


def bindings() -> list[dict[str, Any]]:
    """Return bindings of every kind of key."""
    keys = [*NAMES, *(f"example\\employee{number:04}" for number in range(500)), "2001:db8:1234:5678::/64"]
    servers = [row["name"] for row in rows.big_farm()]
    return [rows.binding(key=key, server=servers[number % 200]) for number, key in enumerate(keys)]


LISTS: dict[str, tuple[list[dict[str, Any]], tuple[str, ...]]] = {
    "servers": (rows.big_farm(), ("name", "address")),
    "sessions": (sessions(), ("id", "user", "client", "server")),
    "persistence": (bindings(), ("key", "server")),
    "services": (
        [
            rows.service(),
            rows.service(name="a-service-with-a-long-name-for-a-branch", listen=CLIENTS, servers_usable=0),
        ],
        ("name", "listen"),
    ),
}


@pytest.mark.parametrize("columns", WIDTHS)
@pytest.mark.parametrize("what", LISTS)
def test_nothing_is_cut(tmp_path: Path, what: str, columns: int) -> None:
    """Each name, key and address stands in one piece, in the lines of its row and in the list's order."""
    found, keys = LISTS[what]
    with FakeService(tmp_path / "s", {what: [found]}) as service:
        done = on_a_terminal("show", what, service=service, columns=columns, environ={"NO_COLOR": "1"})
    assert (0, "") == (done.status, done.err)
    at = 0
    for row in found:
        values = [value for key in keys for value in (row[key] if isinstance(row[key], list) else [row[key]])]
        for value in values:
            where = done.out.find(value, at)
            assert where >= 0, f"{value!r} is not whole behind {done.out[at : at + 200]!r}"
        at = done.out.index(values[0], at) + len(values[0])
    assert "…" not in done.out


@pytest.mark.parametrize("columns", WIDTHS)
@pytest.mark.parametrize("what", LISTS)
def test_no_line_is_longer_than_the_terminal(tmp_path: Path, what: str, columns: int) -> None:
    """But one that is a single word, which cannot be broken without being cut."""
    with FakeService(tmp_path / "s", {what: [LISTS[what][0]]}) as service:
        done = on_a_terminal("show", what, service=service, columns=columns, environ={"NO_COLOR": "1"})
    long = [line for line in done.out.splitlines() if cell_width(line) > columns]
    assert [] == [line for line in long if len(line.split()) > 1]


@pytest.mark.parametrize("columns", WIDTHS)
def test_a_farm_of_ordinary_names_takes_a_line_a_server(tmp_path: Path, columns: int) -> None:
    """Long rows are the exception: of 200 servers, the seven that have more to tell take more lines."""
    found = rows.big_farm()
    with FakeService(tmp_path / "s", {"servers": [found]}) as service:
        done = on_a_terminal("show", "servers", service=service, columns=columns, environ={"NO_COLOR": "1"})
    assert len(done.out.splitlines()) <= 2 + 200 + 2 * 7


@pytest.mark.parametrize("columns", WIDTHS)
def test_a_status_of_two_hundred_servers_is_one_screen(tmp_path: Path, columns: int) -> None:
    """24 lines: the worst first and by name, the rest counted."""
    answer = rows.status(
        services=[rows.service(servers_usable=196, servers_total=200)], servers=rows.big_farm()
    )
    with FakeService(tmp_path / "s", {"status": [answer]}) as service:
        done = on_a_terminal("status", service=service, columns=columns, environ={"NO_COLOR": "1"})
    lines = done.out.splitlines()
    assert len(lines) <= 24
    assert "  196 servers up, 0 to 14 sessions each" == lines[-1]
    named = [name for name in ("ts-down", "sorry", "端末サーバー", "ts-agent") if name in done.out]
    assert ["ts-down", "sorry", "端末サーバー", "ts-agent"] == sorted(named, key=done.out.index)
