"""Says in plain words, and with a place, what validation found wrong."""

import re
from collections.abc import Callable, Iterator
from typing import Any, Final

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from rdpbalancer.settings.error_text import did_you_mean, shown, unknown_key
from rdpbalancer.settings.problems import KeyPath, Problem, problem_at
from rdpbalancer.settings.schema import VirtualServiceSettings, known_keys
from rdpbalancer.settings.tree import MappingNode, Node, ScalarNode, nearest, plain

NO_VALUE: Final = "has no value: write one, or remove the key to get the default"


def explain(error: ValidationError, root: MappingNode) -> Iterator[Problem]:
    """Yield a problem for each error of `error`, except where one has been reported for the value already."""
    for details in error.errors(include_url=False):
        loc, kind = details["loc"], details["type"]
        node, rest = nearest(root, loc)
        if kind == "extra_forbidden":
            yield _unknown(root, loc[:-1], str(loc[-1]))
        elif _told_already(node, kind):
            continue
        elif kind == "missing" and len(rest) == 1:
            yield problem_at(node.place, (*node.path, *rest), f"'{rest[0]}' is missing: it has no default")
        else:
            yield problem_at(node.place, node.path, _message(details))


def _told_already(node: Node, kind: str) -> bool:
    if isinstance(node, ScalarNode) and node.broken:
        return True
    # Pydantic counts the valid entries only: a list of nothing but wrong ones is not too short.
    return kind == "too_short" and plain(node) != []


def _unknown(root: MappingNode, loc: KeyPath, key: str) -> Problem:
    parent, _ = nearest(root, loc)
    place = parent.entries[key].key_place if isinstance(parent, MappingNode) else parent.place
    message = unknown_key(key, known_keys(loc))
    if loc == ("defaults",) and key in VirtualServiceSettings.model_fields:
        message = f"'{key}' belongs to each virtual service: it cannot be in defaults"
    return problem_at(place, (*parent.path, key), message)


def _message(details: ErrorDetails) -> str:
    given = details.get("input")
    if details["type"] == "value_error":
        return NO_VALUE if given is None else str(details["ctx"]["error"])
    if given is None:
        return NO_VALUE
    words = _WORDS.get(details["type"])
    return f"{details['msg']}, got {shown(given)}" if words is None else words(details.get("ctx", {}), given)


def _choice(ctx: dict[str, Any], given: object) -> str:
    choices = re.findall(r"'([^']*)'", ctx["expected"])
    near = did_you_mean(given, choices) if isinstance(given, str) else None
    hint = f"; did you mean '{near}'?" if near else ""
    return f"expected {', '.join(choices[:-1])} or {choices[-1]}, got {shown(given)}{hint}"


def _whole_number(_: dict[str, Any], given: object) -> str:
    digits = isinstance(given, str) and re.fullmatch(r"-?[0-9]{1,18}", given)
    hint = f": write {int(digits[0])}" if digits else ""
    return f"expected a whole number, got {shown(given)}{hint}"


def _switch(_: dict[str, Any], given: object) -> str:
    word = given.lower() if isinstance(given, str) else ""
    hint = ": write true" if word in {"true", "yes", "on"} else ""
    hint = ": write false" if word in {"false", "no", "off"} else hint
    return f"expected true or false, got {shown(given)}{hint}"


_WORDS: Final[dict[str, Callable[[dict[str, Any], object], str]]] = {
    "int_type": _whole_number,
    "bool_type": _switch,
    "tuple_type": lambda _, given: f"expected a list, got {shown(given)}",
    "model_type": lambda _, given: f"expected a mapping (key: value), got {shown(given)}",
    "greater_than_equal": lambda ctx, given: f"must be at least {ctx['ge']}, got {given}",
    "less_than_equal": lambda ctx, given: f"must be at most {ctx['le']}, got {given}",
    "too_short": lambda _, __: "needs at least one entry",
    "enum": _choice,
    "literal_error": _choice,
}
