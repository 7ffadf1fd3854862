"""The command line's end of the control socket: blocking, one request at a time."""

import contextlib
import grp
import pwd
import socket
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from rdpbalancer.control.protocol import ControlRequest, ControlResponse, encode
from rdpbalancer.errors import Blame, RdpBalancerError

_FULL_QUEUE_S = 0.01
_BUSY_S = 0.1
# What the service says when it parts with a connection: it has begun nothing of what comes after.
_NOT_BEGUN = ("busy", "timeout")


class UnreachableError(RdpBalancerError):
    """The service does not answer on its control socket."""

    fault = Blame.OPERATOR


class CommandRefusedError(RdpBalancerError):
    """The service answered that it will not, or cannot, do it."""

    fault = Blame.OPERATOR


class Client:
    """A connection to a running service."""

    def __init__(self, path: Path, *, timeout_s: float = 10.0) -> None:
        self._path = path
        self._timeout_s = timeout_s
        self._connect()

    def _connect(self) -> None:
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._sock.settimeout(self._timeout_s)
        until_at = time.monotonic() + self._timeout_s
        while True:
            try:
                self._sock.connect(str(self._path))
                break
            except BlockingIOError as error:
                # A Unix socket whose queue is full refuses at once whoever would not wait for ever.
                if time.monotonic() >= until_at:
                    self._sock.close()
                    raise UnreachableError("unreachable", _advice(self._path, error)) from error
                time.sleep(_FULL_QUEUE_S)
            except OSError as error:
                self._sock.close()
                raise UnreachableError("unreachable", _advice(self._path, error)) from error
        self._file = self._sock.makefile("rb")

    def call(self, verb: str, **params: Any) -> Any:
        """Carry out a verb and return its result. Raises UnreachableError, RefusedError.

        A service that has too many clients, or has waited long for a command, says so and has begun nothing:
        it is asked again for a while.
        """
        until_at = time.monotonic() + self._timeout_s
        while True:
            try:
                return self._call(verb, params)
            except CommandRefusedError as error:
                if error.code not in _NOT_BEGUN or time.monotonic() >= until_at:
                    raise
            time.sleep(_BUSY_S)
            self.close()
            self._connect()

    def _call(self, verb: str, params: dict[str, Any]) -> Any:
        try:
            request = encode(ControlRequest(verb, params))
        except UnicodeEncodeError as error:  # from a terminal with another encoding than this locale's
            raise CommandRefusedError(
                "bad-parameters", f"{verb}: {error.object!a} is no text in UTF-8, as names here are"
            ) from error
        try:
            # A service that is too busy answers at once, and does not read what it refuses.
            with contextlib.suppress(BrokenPipeError):
                self._sock.sendall(request)
            line = self._file.readline()
        except OSError as error:
            raise UnreachableError("unreachable", f"the service does not answer: {error}") from error
        if not line.endswith(b"\n"):
            raise UnreachableError("unreachable", "the service closed the connection; its log says why")
        try:
            answer = msgspec.json.decode(line, type=ControlResponse)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise UnreachableError("unreachable", f"this is no answer of rdpbalancer: {error}") from error
        if answer.error is not None:
            raise CommandRefusedError(answer.error.code, answer.error.message)
        return answer.result

    def pages(self, verb: str, **params: Any) -> Iterator[dict[str, Any]]:
        """Yield every row of a list verb, page by page (`limit`: rows a page, as the service has it).

        Between two pages the service may close a connection that says nothing for long, or be replaced by a
        new version; the next page is then asked for anew. Raises UnreachableError, RefusedError.
        """
        while True:
            answer = self._page(verb, params)
            if isinstance(answer, list):  # a verb that has no pages, or a service from before there were any
                yield from answer
                return
            yield from answer["rows"]
            if answer["next"] is None:
                return
            params = {**params, "after": answer["next"]}

    def _page(self, verb: str, params: dict[str, Any]) -> Any:
        if "after" not in params:
            return self.call(verb, **params)
        try:
            return self.call(verb, **params)
        except UnreachableError:
            self.close()
            self._connect()
            return self.call(verb, **params)

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
    if isinstance(error, BlockingIOError):
        return f"{path}: the service takes no connection; it hangs, or too many clients wait before you"
    if isinstance(error, PermissionError):
        return f"you may not use {path}: {_who_may(path)}"
    return f"cannot reach {path}: {error}"


def _who_may(path: Path) -> str:
    """Return who may use a socket, by what the file says, or the folder where that hides it."""
    for place, needed in ((path, stat.S_IWGRP), (path.parent, stat.S_IXGRP)):
        with contextlib.suppress(OSError):
            found = place.stat()
            group = found.st_gid if found.st_mode & needed else 0
            return f"ask as {permitted(found.st_uid, group)}"
    return "ask as the service's user, or as root"


def permitted(uid: int, gid: int) -> str:
    """Return in words who may use what belongs to a user and a group, 0: nobody but root."""
    others = [f"as the user {_name(pwd.getpwuid, uid)}"] if uid else []
    others += [f"as a member of the group {_name(grp.getgrgid, gid)}"] if gid else []
    return ", or ".join(["root", *others])


def _name(look_up: Callable[[int], Any], number: int) -> str:
    try:
        return str(look_up(number)[0])
    except KeyError:
        return str(number)
