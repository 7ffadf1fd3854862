"""What a new configuration changes, in a line."""

from collections.abc import Mapping
from typing import Any, Final

from rdpbalancer.cli.output import counted, listed

# Names beyond these are counted: two hundred of them are in `--json`.
_NAMED: Final = 5

_WHAT: Final = (
    ("services_added", "service", "added"),
    ("services_removed", "service", "removed"),
    ("services_changed", "service", "changed"),
    ("servers_added", "server", "added"),
    ("servers_removed", "server", "removed"),
    ("servers_changed", "server", "changed"),
)
_SERVERS: Final = ("servers_added", "servers_removed", "servers_changed")


def changes_text(changes: Mapping[str, Any]) -> str:
    """Return what was added, removed and changed: "2 servers added: ts/ts3, ts/ts4"."""
    details: Mapping[str, Any] = changes.get("details") or {}
    said = []
    for key, noun, done in _WHAT:
        names = changes.get(key) or []
        if key == "services_changed":
            names = [name for name in names if name in details or not _has_servers(name, changes)]
        if names:
            shown = [_with_details(name, details) for name in names]
            said.append(f"{counted(len(names), noun)} {done}: {listed(shown, most=_NAMED)}")
    return "; ".join(said) or "nothing in the farm differs"


def _with_details(name: str, details: Mapping[str, Any]) -> str:
    found = details.get(name)
    return f"{name} ({', '.join(found)})" if found else name


def _has_servers(service: str, changes: Mapping[str, Any]) -> bool:
    """Whether a service has changed by its servers, which are told by themselves."""
    servers = (server for key in _SERVERS for server in changes.get(key) or [])
    return any(server.startswith(f"{service}/") for server in servers)
