"""Bytes of real clients and servers, read once from `tests/data/vectors.md`.

`VECTORS`: first packets by name. `EXCHANGES`: what was sent to a real server program and what it answered.
`REPLIES`: the same, by program, then request hex to reply hex (empty: none came). `CONFIRMS`: answers of
other servers. `TOKENS`: routing tokens and the address they name. `OTHERS`: redirection PDUs, datagrams.
"""

import re
from pathlib import Path
from typing import Final, NamedTuple


class Vector(NamedTuple):
    """Named bytes; `note` says whose they are and how they came about."""

    name: str
    note: str
    data: bytes


class Exchange(NamedTuple):
    """One request and its reply. `reply` is empty where there was none: `end` then is `EOF` or `silence`."""

    program: str
    name: str
    request: bytes
    reply: bytes
    end: str


_SECTION = re.compile(r"^## (\w+): (.+)\n((?:(?!## ).*\n)*)", re.MULTILINE)
_ENTRY = re.compile(r"^- `([^`]+)` — (.+)\n  `([0-9a-f]+)`$", re.MULTILINE)
_EXCHANGE = re.compile(r"^- (.+) \| `([0-9a-f]+)` \| `([0-9a-f]+|EOF|silence)`$", re.MULTILINE)
_TOKEN = re.compile(r"^- (.+) \| (none|[0-9.]+:[0-9]+) \| .+$", re.MULTILINE)

_TEXT: Final = (Path(__file__).parents[1] / "data" / "vectors.md").read_text(encoding="utf-8")
_SECTIONS: Final = [(kind, title, body) for kind, title, body in _SECTION.findall(_TEXT)]


def _vectors(*kinds: str) -> dict[str, Vector]:
    found = [
        Vector(name, note, bytes.fromhex(text))
        for kind, _, body in _SECTIONS
        if kind in kinds
        for name, note, text in _ENTRY.findall(body)
    ]
    vectors = {vector.name: vector for vector in found}
    if len(vectors) != len(found):
        raise ValueError(f"tests/data/vectors.md: a name occurs twice in the sections {kinds}")
    return vectors


def _exchange(program: str, name: str, request: str, reply: str) -> Exchange:
    end = reply if reply in {"EOF", "silence"} else ""
    return Exchange(program, name, bytes.fromhex(request), b"" if end else bytes.fromhex(reply), end)


VECTORS: Final[dict[str, Vector]] = _vectors("Requests")
CONFIRMS: Final[dict[str, Vector]] = _vectors("Confirms")
OTHERS: Final[dict[str, Vector]] = _vectors("Redirections", "Datagrams")
EXCHANGES: Final[tuple[Exchange, ...]] = tuple(
    _exchange(title.removesuffix(" (captured)"), *row)
    for kind, title, body in _SECTIONS
    if kind == "Replies"
    for row in _EXCHANGE.findall(body)
)
REPLIES: Final[dict[str, dict[str, str]]] = {
    program: {
        exchange.request.hex(): exchange.reply.hex() for exchange in EXCHANGES if exchange.program == program
    }
    for program in dict.fromkeys(exchange.program for exchange in EXCHANGES)
}
TOKENS: Final[dict[bytes, str | None]] = {
    token.encode("ascii"): None if address == "none" else address
    for kind, _, body in _SECTIONS
    if kind == "Tokens"
    for token, address in _TOKEN.findall(body)
}
