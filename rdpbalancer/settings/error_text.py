"""Plain words for values and near misses, as the messages of the configuration use them."""

import difflib
from collections.abc import Iterable
from typing import Final

# A message is one line of a terminal or a log: a longer value is cut.
SHOWN_LENGTH = 60


# What other balancers call it, and is near to no key in letters.
_ALIASES: Final = {
    "balance": "scheduler",
    "bind": "listen",
    "maxconn": "max_connections",
    "minconn": "min_connections",
    "vip": "listen",
}
_FALLBACKS: Final = frozenset({"fallback", "fallback_server", "sorry_server"})


def shown(value: object) -> str:
    """Say what `value` is, in the terms of the file: `'abc'`, `the number 5`, `a list`."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, int | float):
        return f"the number {value}"
    if isinstance(value, list | tuple):
        return "a list"
    return "a mapping (key: value)"


def quoted(text: str) -> str:
    """Put `text` in quotes, on one line: control characters escaped, cut at 60 characters."""
    return repr(text if len(text) <= SHOWN_LENGTH else text[: SHOWN_LENGTH - 3] + "...")


def did_you_mean(word: str, known: Iterable[str]) -> str | None:
    """Return the known word nearest to `word`, or None if nothing is near."""
    near = difflib.get_close_matches(word.lower(), list(known), n=1, cutoff=0.6)
    return near[0] if near else None


def unknown_key(key: str, known: Iterable[str]) -> str:
    """Say that `key` does not exist, and which key may be meant."""
    names = sorted(known)
    if key in _FALLBACKS:
        return f"unknown key {quoted(key)}; a fallback server is one of real_servers with 'backup: true'"
    alias = _ALIASES.get(key)
    near = alias if alias in names else did_you_mean(key, names)
    if near is not None:
        return f"unknown key {quoted(key)}; did you mean '{near}'?"
    if key == "<<":
        return "unknown key '<<': YAML 1.2 has no merge keys; put what services share under 'defaults'"
    return f"unknown key {quoted(key)}; the keys known here are {', '.join(names)}"
