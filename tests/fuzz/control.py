"""Any bytes on the control socket: an answer to each line, or a close, and never a traceback."""

import asyncio
import json
import socket
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

from rdpbalancer.control.parameters import Signature
from rdpbalancer.control.protocol import MAX_REQUEST_BYTES
from rdpbalancer.control.server import ControlServer
from rdpbalancer.model import Key, Method, ServerId
from tests.unit.core.farms import SERVICE
from tests.unit.runtime.in_process_router import InProcessRouter, local_server, service_of

_PATIENCE_S: Final = 10.0

SEEDS: Final = [
    b'{"verb": "services"}\n{"verb": "servers", "params": {"service": "ts"}}\n',
    b'{"v": 1, "verb": "sessions", "params": {"limit": 3, "after": "[\\"\\",0.0,\\"a\\"]"}}\n',
    b'{"verb": "sessions", "params": {"source": "192.0.2.0/24", "user": "alice", "server": "ts1"}}\n',
    b'{"verb": "persistence", "params": {"key": "a", "method": "rdp-cookie"}}\n',
    b'{"verb": "persistence", "params": {"after": "[\\"ts\\",\\"rdp-cookie\\",\\"alice\\"]"}}\n',
    b'{"verb": "events", "params": {"since": 1750000000000, "level": "warning"}}\n',
    b'{"verb": "queue", "params": {}}\n',
    b'{"verb": "set-state", "params": {"servers": ["ts*", "gw/ts1"], "state": "drain", "strict": true}}\n',
    b'{"verb": "set-state", "params": {"server": "ts1", "state": "online", "kick": true, "reason": "x"}}\n',
    b'{"verb": "set-weight", "params": {"servers": ["ts1"], "weight": null}}\n',
    b'{"verb": "set-weight", "params": {"server": "ts1", "percent": 50}}\n',
    b'{"verb": "kick", "params": {"all": true, "reason": "night"}}\n',
    b'{"verb": "kick", "params": {"session": "a", "user": "", "source": "::/0"}}\n',
    b'{"verb": "persist-move", "params": {"key": "alice", "server": "ts2"}}\n',
    b'{"verb": "persist-move", "params": {"key": "0.0.0.0/0", "server": "ts2", "method": "source-ip"}}\n',
    b'{"verb": "persist-delete", "params": {"key": "corp\\\\bert", "service": "ts"}}\n',
    b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b'{"verb": "\\ud800", "params": {"a": 1e400, "b": -0, "c": 123456789012345678901234567890}}\n',
    b'{"verb":"kick","params":' + b"[" * 2000 + b"\n",
    b'{"verb":"kick","params":' + b'{"a":' * 2000 + b"\n",
    b"\xff\xfe\x00{\n\n\n",
]


def _farm() -> InProcessRouter:
    return InProcessRouter(
        service_of(["ts1", "ts2"]), service_of([local_server("ts1", id=ServerId("gw", "ts1"))], name="gw")
    )


class Service:
    """The operator's verbs over a small farm, on a control server that sockets are handed to."""

    def __init__(self) -> None:
        self.errors: list[str] = []
        balancer = self.balancer = _farm()
        for number, name in enumerate(("a", "b", "c")):
            balancer.session(name, f"ts{number % 2 + 1}", user=name, key=Key(Method.RDP_COOKIE, name))
        balancer.dispatcher.bindings.of(SERVICE).move(
            Key(Method.RDP_COOKIE, "corp\\alice"), "ts1", now=balancer.now, ttl_s=60
        )
        self.server = ControlServer(balancer.operator.verbs(), on_error=self._failed)

    @staticmethod
    def verbs() -> dict[str, set[str]]:
        """Return the parameters of every verb, by its name."""
        return {
            name: {parameter.name for parameter in Signature(verb).parameters}
            for name, verb in _farm().operator.verbs().items()
        }

    def _failed(self, verb: str, error: Exception) -> None:
        self.errors.append(f"{verb}: {error!r}")

    async def say(self, data: bytes) -> list[dict[str, Any]]:
        """Send bytes as one client, whole, and return what is answered up to the end."""
        ours, theirs = socket.socketpair(socket.AF_UNIX)
        ours.setblocking(False)
        loop = asyncio.get_running_loop()
        with ours:
            self.server._admit(theirs)
            async with asyncio.timeout(_PATIENCE_S):
                answered = loop.create_task(_read(ours))
                with suppress(BrokenPipeError, ConnectionResetError):
                    await loop.sock_sendall(ours, data)
                    ours.shutdown(socket.SHUT_WR)
                received = await answered
        return [json.loads(line) for line in received.splitlines()]


async def _read(sock: socket.socket) -> bytes:
    received = bytearray()
    with suppress(ConnectionResetError):
        while chunk := await asyncio.get_running_loop().sock_recv(sock, 65536):
            received += chunk
    return bytes(received)


def check_answers(data: bytes, answers: list[dict[str, Any]], errors: list[str]) -> None:
    """Hold the answers to one for each line, each whole, and none of them a defect of ours."""
    assert [] == errors, errors
    for answer in answers:
        assert _is_answer(answer), answer
    lines = data.count(b"\n")
    if len(data) <= MAX_REQUEST_BYTES:
        assert lines == len(answers), f"{lines} lines, {len(answers)} answers"


def _is_answer(answer: Mapping[str, Any]) -> bool:
    if answer.get("ok") is True:
        return "error" not in answer
    error = answer.get("error", {})
    return (
        answer.get("ok") is False and bool(error["code"] and error["message"]) and error["code"] != "internal"
    )


def check_control(data: bytes) -> None:
    """Hold the control server to its promise for any bytes at all."""

    async def run() -> None:
        problems: list[str] = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: problems.append(str(context)))
        service = Service()
        answers = await service.say(data)
        await service.server.stop()
        check_answers(data, answers, [*service.errors, *problems])

    asyncio.run(run())
