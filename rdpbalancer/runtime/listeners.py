"""Which listening sockets a configuration wants, by name, and the supervisor's keeping of them."""

import socket
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from rdpbalancer.errors import ConfigurationError
from rdpbalancer.model import Endpoint
from rdpbalancer.net import listen, options
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


class Listeners:
    """The open listening sockets, by name, each with the address it was opened for."""

    def __init__(self) -> None:
        self._open: dict[str, tuple[str, socket.socket]] = {}

    def __iter__(self) -> Iterator[tuple[str, str, socket.socket]]:
        """Yield name, address and socket of each."""
        for name, (address, sock) in self._open.items():
            yield name, address, sock

    def sock(self, name: str) -> socket.socket:
        """Return the socket of that name."""
        return self._open[name][1]

    def inherit(self, name: str, address: str, sock: socket.socket) -> None:
        """Take over a socket that is listening already."""
        self._open[name] = (address, sock)

    def open_missing(self, wanted: Mapping[str, str], *, control_mode: int) -> list[str]:
        """Open what is wanted and not open yet; return the names. All or none: raises ConfigurationError.

        What is open and not wanted any more stays, and does not stand in the way of what overlaps with it.
        """
        opened: list[str] = []
        try:
            for name, address in wanted.items():
                if name not in self._open:
                    self._open[name] = (address, self._open_one(address, control_mode))
                    opened.append(name)
        except ConfigurationError:
            self.close(opened)
            raise
        return opened

    def open_possible(
        self, wanted: Mapping[str, str], *, control_mode: int
    ) -> tuple[list[str], dict[str, str]]:
        """Open what is missing and can be opened; return the names, and why not for the others."""
        opened: list[str] = []
        problems: dict[str, str] = {}
        for name, address in wanted.items():
            try:
                opened += self.open_missing({name: address}, control_mode=control_mode)
            except ConfigurationError as error:
                problems[name] = str(error)
        return opened, problems

    def restrict(self, control_mode: int) -> None:
        """Give the control socket's file this mode. Raises OSError."""
        if CONTROL in self._open:
            Path(self._open[CONTROL][0]).chmod(control_mode)

    def activate(self, wanted: Mapping[str, str], passed: Iterable[tuple[str, socket.socket]]) -> None:
        """Use the sockets that the service manager has passed for the listeners of the same address."""
        for address, sock in passed:
            names = [name for name, at in wanted.items() if at == address and name not in self._open]
            for name in names:
                options.for_session(sock)
                self._open[name] = (address, sock.dup())
            sock.close()

    def close_others(self, wanted: Mapping[str, str]) -> list[str]:
        """Close what is not wanted any more; return the addresses."""
        names = [name for name in self._open if name not in wanted]
        addresses = [self._open[name][0] for name in names]
        self.close(names)
        return addresses

    def close(self, names: Iterable[str]) -> None:
        """Close these; a Unix socket's file goes with it."""
        for name in names:
            address, sock = self._open.pop(name)
            sock.close()
            if address.startswith("/"):
                Path(address).unlink(missing_ok=True)

    def close_all(self) -> None:
        """Close every socket."""
        self.close(list(self._open))

    def _open_one(self, address: str, control_mode: int) -> socket.socket:
        for known_address, sock in self._open.values():
            if known_address == address and not address.endswith(":0"):
                return sock.dup()  # a service gives its address to another in the same reload
        if address.startswith("/"):
            return listen.unix(Path(address), mode=control_mode)
        host, _, port = address.rpartition(":")
        ours = [sock for address, sock in self._open.values() if not address.startswith("/")]
        return listen.tcp(Endpoint(host.strip("[]"), int(port)), beside=ours)
