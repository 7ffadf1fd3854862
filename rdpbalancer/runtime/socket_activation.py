"""Listening sockets from the service manager: socket activation, and its store of descriptors.

With either, the listeners outlive even a crashed supervisor: connections wait in the kernel until the service
manager has started the next one (sd_listen_fds(3), sd_pid_notify_with_fds(3)).
"""

import os
import socket
from collections.abc import MutableMapping

from rdpbalancer.model import Endpoint

_FIRST_DESCRIPTOR = 3


def activated(environ: MutableMapping[str, str]) -> list[tuple[str, socket.socket]]:
    """Return the TCP listeners that the service manager has passed, each with its address.

    The variables are taken out of `environ`: children are not meant. What is not a listening TCP socket is
    closed.
    """
    pid, count = environ.pop("LISTEN_PID", ""), environ.pop("LISTEN_FDS", "0")
    environ.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()) or not count.isdigit():
        return []
    found = []
    for descriptor in range(_FIRST_DESCRIPTOR, _FIRST_DESCRIPTOR + int(count)):
        os.set_inheritable(descriptor, False)
        address = _listening_address(descriptor)
        if address is None:
            os.close(descriptor)
            continue
        sock = socket.socket(fileno=descriptor)
        sock.setblocking(False)
        found.append((address, sock))
    return found


def store_name(address: str) -> str:
    """Return the name under which a listener is stored: printable, without a colon (FDNAME=)."""
    return "listener-" + address.replace(":", ".").replace("[", "").replace("]", "")


def _listening_address(descriptor: int) -> str | None:
    try:
        sock = socket.socket(fileno=os.dup(descriptor))
    except OSError:
        return None
    with sock:
        inet = sock.family in (socket.AF_INET, socket.AF_INET6) and sock.type == socket.SOCK_STREAM
        if not inet or not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            return None
        host, port = sock.getsockname()[:2]
        return str(Endpoint(host, port))
