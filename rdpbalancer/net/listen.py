"""Opening listening sockets."""

import ctypes
import errno
import os
import socket
import stat
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rdpbalancer.errors import ConfigurationError
from rdpbalancer.model import Endpoint
from rdpbalancer.net import options

# A login storm's connections wait in the kernel while the router works; somaxconn is the kernel's own bound.
BACKLOG = 4096

# Linux's number (asm/socket.h), which Python's socket module lacks.
_SO_ATTACH_FILTER = 26
# A classic BPF program on the TCP header: drop a segment with SYN and without ACK, let any other pass.
_DROP_SYN = b"".join(
    struct.pack("HBBI", *instruction)
    for instruction in (
        (0x30, 0, 0, 13),  # load the byte of flags
        (0x54, 0, 0, 0x12),  # keep SYN and ACK
        (0x15, 0, 1, 0x02),  # SYN alone?
        (0x06, 0, 0, 0),  # drop it
        (0x06, 0, 0, 0xFFFFFFFF),  # let it pass, whole
    )
)


def tcp(endpoint: Endpoint, *, beside: Sequence[socket.socket] = ()) -> socket.socket:
    """Listen on a TCP address. An IPv6 address takes IPv6 only, so that `0.0.0.0` and `[::]` go together.

    `beside`: our own listeners, which may overlap with it: a reload goes from `0.0.0.0:3389` to one address
    of it without a moment at which nobody listens. Raises ConfigurationError with what to do about it.
    """
    family = socket.AF_INET6 if ":" in endpoint.host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        options.for_session(sock)
        with _sharing_the_port([sock, *(each for each in beside if _overlaps(each, family, endpoint.port))]):
            sock.bind((endpoint.host, endpoint.port))
            sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise _cannot_listen(str(endpoint), error) from error
    return sock


def _overlaps(listener: socket.socket, family: int, port: int) -> bool:
    return bool(port) and listener.family == family and listener.getsockname()[1] == port


@contextmanager
def _sharing_the_port(sockets: Sequence[socket.socket]) -> Iterator[None]:
    """Let these sockets, all ours, listen on the same port; nobody else's, and no longer than this.

    With SO_REUSEPORT left on, a second instance that the same user starts by mistake would get half of the
    connections instead of an error.
    """
    if len(sockets) == 1:
        yield
        return
    try:
        for sock in sockets:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        yield
    finally:
        for sock in sockets:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 0)


def ignore_new(listener: socket.socket) -> None:
    """Let a TCP listener, in every process that has it, begin no more connections, and refuse none.

    For a listener that another one of ours replaces: a client whose SYN nobody answers sends it again after
    a second (RFC 6298) and finds the other; one whose handshake has begun finishes it here. Closing without
    this would reset whoever came between the last accept and the close.
    """
    instructions = ctypes.create_string_buffer(_DROP_SYN, len(_DROP_SYN))
    program = struct.pack("HP", len(_DROP_SYN) // 8, ctypes.addressof(instructions))  # struct sock_fprog
    listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)


def unix(path: Path, *, mode: int) -> socket.socket:
    """Listen on a Unix stream socket at `path` with the file mode `mode`; a stale file is replaced.

    Raises ConfigurationError, also if another process answers there.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        _remove_stale(path)
        # Bound under a private name first: nobody can connect before the mode is right.
        private = path.with_name(f".{path.name}.{os.getpid()}")
        private.unlink(missing_ok=True)
        sock.bind(str(private))
        private.chmod(mode)
        sock.listen(128)
        private.rename(path)
    except OSError as error:
        sock.close()
        raise _cannot_listen(str(path), error) from error
    return sock


def _remove_stale(path: Path) -> None:
    if not path.exists():
        return
    if not stat.S_ISSOCK(path.stat().st_mode):
        raise FileExistsError(errno.EEXIST, "a file that is not a socket is in the way")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            path.unlink(missing_ok=True)
            return
    raise OSError(errno.EADDRINUSE, "another rdpbalancer answers there")


def _cannot_listen(where: str, error: OSError) -> ConfigurationError:
    advice = {
        errno.EADDRINUSE: "another program listens there (ss -ltnp shows which), or the service runs already",
        errno.EACCES: "not permitted: ports below 1024 need the capability CAP_NET_BIND_SERVICE",
        errno.EADDRNOTAVAIL: "this machine has no such address",
        errno.ENOENT: "its folder does not exist",
    }.get(error.errno or 0, error.strerror or str(error))
    return ConfigurationError("listen", f"cannot listen on {where}: {advice}")
