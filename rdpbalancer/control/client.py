"""The command line's end of the control socket: blocking, one request at a time."""

import socket
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from rdpbalancer.control.protocol import Answer, Request, encode
from rdpbalancer.errors import Fault, RdpBalancerError


class UnreachableError(RdpBalancerError):
    """The service does not answer on its control socket."""

    fault = Fault.OPERATOR


class RefusedError(RdpBalancerError):
    """The service answered that it will not, or cannot, do it."""

    fault = Fault.OPERATOR


class Client:
    """A connection to a running service."""

    def __init__(self, path: Path, *, timeout_s: float = 10.0) -> None:
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._sock.settimeout(timeout_s)
        try:
            self._sock.connect(str(path))
        except OSError as error:
            self._sock.close()
            raise UnreachableError("unreachable", _advice(path, error)) from error
        self._file = self._sock.makefile("rb")

    def call(self, verb: str, **params: Any) -> Any:
        """Carry out a verb and return its result. Raises UnreachableError, RefusedError."""
        try:
            self._sock.sendall(encode(Request(verb, params)))
            line = self._file.readline()
        except OSError as error:
            raise UnreachableError("unreachable", f"the service does not answer: {error}") from error
        if not line.endswith(b"\n"):
            raise UnreachableError("unreachable", "the service closed the connection; its log says why")
        try:
            answer = msgspec.json.decode(line, type=Answer)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise UnreachableError("unreachable", f"this is no answer of rdpbalancer: {error}") from error
        if answer.error is not None:
            raise RefusedError(answer.error.code, answer.error.message)
        return answer.result

    def close(self) -> None:
        """Close the connection."""
        self._file.close()
        self._sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _advice(path: Path, error: OSError) -> str:
    if isinstance(error, FileNotFoundError | ConnectionRefusedError):
        return (
            f"no rdpbalancer answers on {path}: is the service running? "
            "(--socket or RDPBALANCER_SOCKET name another control socket)"
        )
    if isinstance(error, PermissionError):
        return f"you may not use {path}: ask as the service's user, or as root"
    return f"cannot reach {path}: {error}"
