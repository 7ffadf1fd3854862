"""What a reload changes of a virtual service or a real server, in the configuration's own words."""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any, Final

from rdpbalancer.core.farm import Farm, FarmDiff

# So many servers and services are told in detail: a reload of a thousand is one log line, too.
_DETAILED: Final = 50

# Identities, and what is told apart.
_APART: Final = frozenset({"id", "name", "servers"})
# Where the configuration has another word for it.
_KEYS: Final = {
    "agent": "feedback_agent",
    "health": "health_check",
    "kick_on_down": "on_down",
    "wait_when_full": "when_full",
    "collision_next_method": "on_collision",
}
_VALUES: Final = {
    ("on_down", True): "kick",
    ("on_down", False): "keep",
    ("when_full", True): "wait",
    ("when_full", False): "redispatch",
    ("on_collision", True): "next-method",
    ("on_collision", False): "keep",
}


def details(changes: FarmDiff, old: Farm, new: Farm) -> dict[str, list[str]]:
    """Return what differs of each server and service that has changed, the first fifty of them by name.

    A service of which only servers differ is not among them.
    """
    before, after = old.servers(), new.servers()
    found = {
        str(id_): list(differences(before[id_], after[id_])) for id_ in changes.servers_changed[:_DETAILED]
    }
    for name in changes.services_changed[:_DETAILED]:
        if said := list(differences(old.services[name], new.services[name])):
            found[name] = said
    return found


def differences(old: Any, new: Any, path: str = "") -> Iterator[str]:
    """Yield each difference of two dataclasses of one kind: "weight 100 -> 50"."""
    for each in fields(old):
        before, after = getattr(old, each.name), getattr(new, each.name)
        if each.name in _APART or before == after:
            continue
        seconds = each.name.endswith("_s")
        key = _KEYS.get(each.name, each.name.removesuffix("_s"))
        if is_dataclass(before) and is_dataclass(after):
            yield from differences(before, after, f"{path}{key}.")
        else:
            shown = [_shown(key, value, seconds=seconds) for value in (before, after)]
            yield f"{path}{key} {shown[0]} -> {shown[1]}"


def _shown(key: str, value: Any, *, seconds: bool) -> str:
    if isinstance(value, bool):
        return _VALUES.get((key, value), "true" if value else "false")
    if seconds:
        return f"{value:g}s"
    if value is None or value == ():
        return "none"
    if is_dataclass(value):
        return "as configured"
    if isinstance(value, tuple) and not hasattr(value, "_fields"):
        return ", ".join(map(str, value))
    return str(value)
