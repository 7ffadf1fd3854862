"""A verb's parameters, checked by name and type before it begins; the server adds who asks."""

import inspect
from collections.abc import Awaitable, Callable
from typing import Any, Final, get_type_hints

import msgspec

Verb = Callable[..., Awaitable[Any]]

# Names, keys and reasons of people. A cookie has at most 254 bytes, a path 4,096.
MAX_TEXT_CHARS: Final = 4096
MAX_ITEMS: Final = 1000
# The parameter that no client gives: who asks, as the socket knows it.
ACTOR: Final = "actor"
# What may be empty. Anywhere else it is a script's unset variable, and would stand for everybody or nobody.
_MAY_BE_EMPTY: Final = frozenset({"reason"})


class ParametersError(Exception):
    """The parameters are not those of the verb; the text says which, and why."""


class Signature:
    """What a verb takes, read once from its annotations."""

    def __init__(self, verb: Verb) -> None:
        signature = inspect.signature(verb)
        self.parameters = [parameter for name, parameter in signature.parameters.items() if name != ACTOR]
        self.wants_actor = ACTOR in signature.parameters
        self._signature = signature.replace(parameters=self.parameters)
        self._types = get_type_hints(verb)

    def checked(self, params: dict[str, Any]) -> dict[str, Any]:
        """Return the parameters as the verb takes them. Raises ParametersError."""
        try:
            self._signature.bind(**params)
        except TypeError as error:
            raise ParametersError(str(error)) from error
        checked = {}
        for name, value in params.items():
            try:
                checked[name] = msgspec.convert(value, self._types.get(name, Any))
            except msgspec.ValidationError as error:
                raise ParametersError(f"{name}: {error}") from error
            if (problem := _problem(value)) and not (value == "" and name in _MAY_BE_EMPTY):
                raise ParametersError(f"{name}: {problem}")
        return checked


def _problem(value: Any) -> str:
    if isinstance(value, str):
        if not value.strip():
            return "it is empty: name what is meant, or leave it out"
        if len(value) > MAX_TEXT_CHARS:
            return f"it has {len(value)} characters; at most {MAX_TEXT_CHARS} are taken"
    if isinstance(value, list):
        if len(value) > MAX_ITEMS:
            return f"it has {len(value)} items; at most {MAX_ITEMS} are taken"
        return next(filter(None, map(_problem, value)), "")
    return ""
