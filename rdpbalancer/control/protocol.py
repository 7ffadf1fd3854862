"""The control socket's protocol: one JSON object a line, a request and its answer.

``{"v": 1, "verb": "servers", "params": {}}`` is answered with ``{"ok": true, "result": ...}`` or with
``{"ok": false, "error": {"code": "unknown-server", "message": "..."}}``. The command line is one client
of it; a web interface would be another.
"""

from typing import Any

import msgspec

VERSION = 1
# A request is a verb and a few words. An answer may list a hundred thousand bindings.
MAX_REQUEST_BYTES = 64 * 1024


class ControlRequest(msgspec.Struct):
    """One request. `params` are the verb's own."""

    verb: str
    params: dict[str, Any] = {}
    v: int = VERSION


class ControlFailure(msgspec.Struct):
    """Why a request was not carried out: a stable code, and what to tell a person."""

    code: str
    message: str


class ControlResponse(msgspec.Struct, omit_defaults=True):
    """The answer to a request."""

    ok: bool
    result: Any = None
    error: ControlFailure | None = None


def encode(message: ControlRequest | ControlResponse) -> bytes:
    """Return the message as a line."""
    return msgspec.json.encode(message) + b"\n"
