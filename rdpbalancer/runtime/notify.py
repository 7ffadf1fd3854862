"""Telling systemd how we are (sd_notify(3)). Without systemd, nothing happens."""

import os
import socket
from collections.abc import Mapping


class Notifier:
    """Sends notifications to the socket that the service manager names in ``NOTIFY_SOCKET``."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        watchdog_us = environ.get("WATCHDOG_USEC", "0")
        ours = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self.watchdog_s = int(watchdog_us) / 1_000_000 if ours and watchdog_us.isdigit() else 0.0

    def send(self, **fields: str | int) -> None:
        """Send fields such as ``READY=1``. A service manager that does not listen is not our trouble."""
        self._send(fields, [])

    def store(self, name: str, sock: socket.socket) -> None:
        """Have the service manager keep a descriptor, to be passed to the next start (FDSTORE=1)."""
        self._send({"FDSTORE": 1, "FDNAME": name}, [sock.fileno()])

    def forget(self, name: str) -> None:
        """Have the service manager close what it keeps under that name."""
        self._send({"FDSTOREREMOVE": 1, "FDNAME": name}, [])

    def _send(self, fields: Mapping[str, str | int], descriptors: list[int]) -> None:
        if not self._address:
            return
        message = "\n".join(f"{name}={value}" for name, value in fields.items()).encode()
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
            try:
                sock.connect(self._address)
                if descriptors:
                    socket.send_fds(sock, [message], descriptors)
                else:
                    sock.send(message)
            except OSError:
                return
