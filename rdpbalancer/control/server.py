"""The router's end of the control socket."""

import asyncio
import contextlib
import inspect
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, get_type_hints

import msgspec

from rdpbalancer.control.protocol import MAX_REQUEST_BYTES, VERSION, Answer, Failure, Request, encode
from rdpbalancer.errors import RdpBalancerError
from rdpbalancer.tasks import spawn

Verb = Callable[..., Awaitable[Any]]

# From Python 3.13 on both event loops remove a Unix server's file when it is closed. This one is the
# supervisor's, for the next router: without it the command line would find no service after a restart of it.
_KEEP_SOCKET_FILE: Final[dict[str, Any]] = {"cleanup_socket": False} if sys.version_info >= (3, 13) else {}


class ControlServer:
    """Answers requests by calling the verb of that name with the request's parameters."""

    def __init__(self, verbs: Mapping[str, Verb], *, on_error: Callable[[str, Exception], None]) -> None:
        self._verbs = verbs
        self._on_error = on_error
        self._server: asyncio.Server | None = None
        self._clients: set[asyncio.StreamWriter] = set()

    async def start(self, listener: socket.socket) -> None:
        """Serve on a listening Unix socket."""
        self._server = await asyncio.start_unix_server(
            self._connected, sock=listener, limit=MAX_REQUEST_BYTES, **_KEEP_SOCKET_FILE
        )

    async def stop(self) -> None:
        """Stop serving; the socket file stays, it belongs to the supervisor."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in list(self._clients):
            writer.close()

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Not left to asyncio, which reports a verb that the end of the service interrupts as an error.
        spawn(self._serve(reader, writer), name="control connection")

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._clients.add(writer)
        try:
            while line := await reader.readline():
                writer.write(encode(await self._answer(line)))
                await writer.drain()
        except ValueError:  # from readline: where such a line ends, and the next begins, is not known
            failure = _failure("bad-request", f"a request has at most {MAX_REQUEST_BYTES} bytes")
            writer.write(encode(failure))
        except OSError:
            return
        finally:
            self._clients.discard(writer)
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _answer(self, line: bytes) -> Answer:
        try:
            request = msgspec.json.decode(line, type=Request)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            return _failure("bad-request", f"not a request: {error}")
        if request.v != VERSION:
            return _failure("version", f"this service speaks version {VERSION}, not {request.v}")
        verb = self._verbs.get(request.verb)
        if verb is None:
            return _failure("unknown-verb", f"there is no verb {request.verb!r}")
        try:
            params = _checked(verb, request.params)
        except (TypeError, msgspec.ValidationError) as error:
            return _failure("bad-parameters", f"{request.verb}: {error}")
        try:
            # Encoded here, so that a result that cannot be is answered and logged like any other failure.
            return Answer(ok=True, result=msgspec.Raw(msgspec.json.encode(await verb(**params))))
        except RdpBalancerError as error:
            return _failure(error.code, str(error))
        except Exception as error:  # noqa: BLE001 (the operator gets an answer, and the log the traceback)
            self._on_error(request.verb, error)
            return _failure("internal", f"{request.verb} failed: {error!r}; the log says more")


def _checked(verb: Verb, params: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters if they are those of the verb, by name and by type.

    Raises TypeError, msgspec.ValidationError: they are not.
    """
    inspect.signature(verb).bind(**params)
    types = get_type_hints(verb)
    checked = {}
    for name, value in params.items():
        try:
            checked[name] = msgspec.convert(value, types.get(name, Any))
        except msgspec.ValidationError as error:
            message = f"{name}: {error}"
            raise msgspec.ValidationError(message) from error
    return checked


def _failure(code: str, message: str) -> Answer:
    return Answer(ok=False, error=Failure(code, message))
