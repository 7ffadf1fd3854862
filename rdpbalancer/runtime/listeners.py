"""Which listening sockets a configuration wants, by name, and opening them."""

import socket
from pathlib import Path

from rdpbalancer.model import Endpoint
from rdpbalancer.net import listen
from rdpbalancer.settings.schema import Settings

CONTROL = "control"


def wanted_listeners(settings: Settings) -> dict[str, str]:
    """Return the address of every listener by its name: ``SERVICE ADDRESS``, ``metrics ADDRESS``, control.

    Two configurations that give a name the same address can share the socket.
    """
    wanted = {CONTROL: str(settings.global_.runtime_dir / "control.sock")}
    if settings.global_.metrics.listen is not None:
        wanted[f"metrics {settings.global_.metrics.listen}"] = str(settings.global_.metrics.listen)
    for service in settings.virtual_services:
        for endpoint in service.listen:
            wanted[f"{service.name} {endpoint}"] = str(endpoint)
    return wanted


def open_listener(address: str, *, control_mode: int) -> socket.socket:
    """Open one listener: a Unix socket for a path, else TCP. Raises ConfigurationError."""
    if address.startswith("/"):
        return listen.unix(Path(address), mode=control_mode)
    host, _, port = address.rpartition(":")
    return listen.tcp(Endpoint(host.strip("[]"), int(port)))
