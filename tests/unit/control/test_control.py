"""The control socket over a real Unix socket: what goes through, and what each end says of the other."""

import asyncio
import json
import socket
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from rdpbalancer.control.client import Client, CommandRefusedError, UnreachableError, permitted
from rdpbalancer.control.parameters import Verb
from rdpbalancer.control.protocol import MAX_REQUEST_BYTES, ControlRequest, encode
from rdpbalancer.control.server import ControlServer
from rdpbalancer.errors import Blame, ConfigurationError
from tests.support.wait import wait_until_async
from tests.unit.control.unprivileged import as_nobody

PATIENCE_S = 5.0


class ControlFixture:
    """A control server with a few verbs."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.errors: list[tuple[str, Exception]] = []
        self.waiting = 0
        self.go_on = asyncio.Event()
        verbs: dict[str, Verb] = {
            "echo": self.echo,
            "refuse": self.refuse,
            "break": self.break_down,
            "odd": self.odd,
            "wait": self.wait,
        }
        self.server = ControlServer(verbs, on_error=lambda verb, error: self.errors.append((verb, error)))

    async def start(self) -> None:
        """Listen."""
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(self.path))
        listener.listen()
        await self.server.start(listener)

    async def echo(self, text: str, times: int = 1, *, loud: bool = False, whom: str | None = None) -> Any:
        """Answer with what was said."""
        return {"said": [text.upper() if loud else text] * times, "whom": whom}

    async def refuse(self) -> None:
        """Refuse."""
        raise ConfigurationError("unknown-server", "there is no server ts9; there are: ts/ts1")

    async def break_down(self, kind: str = "runtime") -> None:
        """Fail in a way nobody thought of."""
        raise TypeError("ours, not the caller's") if kind == "type" else RuntimeError("a bug")

    async def odd(self, *, surrogate: bool = False) -> object:
        """Answer with what JSON cannot say."""
        return "\udcff" if surrogate else object()

    async def wait(self) -> str:
        """Take a while."""
        self.waiting += 1
        await self.go_on.wait()
        return "done"


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[ControlFixture]:
    """Return a serving house, and take it down."""
    made = ControlFixture(tmp_path / "control.sock")
    await made.start()
    yield made
    made.go_on.set()
    await made.server.stop()
    await wait_until_async(lambda: not made.server._clients, PATIENCE_S, "the end of every connection")


async def threaded(work: Callable[[], Any]) -> Any:
    """Run a blocking client beside the server's loop."""
    async with asyncio.timeout(PATIENCE_S):
        return await asyncio.to_thread(work)


async def call(house: ControlFixture, verb: str, **params: Any) -> Any:
    """Carry out a verb with a client of its own."""

    def work() -> Any:
        with Client(house.path, timeout_s=PATIENCE_S) as client:
            return client.call(verb, **params)

    return await threaded(work)


async def raw(house: ControlFixture, *lines: bytes) -> list[dict[str, Any]]:
    """Send lines as they are, and return the answers up to the end."""
    reader, writer = await asyncio.open_unix_connection(str(house.path), limit=1 << 20)
    async with asyncio.timeout(PATIENCE_S):
        for line in lines:
            writer.write(line)
        writer.write_eof()
        answers = [json.loads(line) for line in (await reader.read()).splitlines()]
    writer.close()
    return answers


# ---- the round trip --------------------------------------------------------------------------------


async def test_a_verb_and_its_result(house: ControlFixture) -> None:
    """Parameters by name; what is not given is as the verb has it."""
    assert {"said": ["héllo"], "whom": None} == await call(house, "echo", text="héllo")
    answer = await call(house, "echo", text="ho", times=3, loud=True, whom="x\ny")
    assert {"said": ["HO"] * 3, "whom": "x\ny"} == answer


async def test_one_connection_carries_many_requests(house: ControlFixture) -> None:
    """Also after one that was refused."""

    def work() -> list[Any]:
        with Client(house.path, timeout_s=PATIENCE_S) as client:
            first = client.call("echo", text="1")
            with pytest.raises(CommandRefusedError):
                client.call("refuse")
            return [first, client.call("echo", text="2")]

    assert [["1"], ["2"]] == [answer["said"] for answer in await threaded(work)]


async def test_a_slow_verb_keeps_nobody_else_waiting(house: ControlFixture) -> None:
    """Each connection is answered for itself."""
    async with asyncio.TaskGroup() as group:
        slow = group.create_task(call(house, "wait"))
        await wait_until_async(lambda: house.waiting == 1, PATIENCE_S, "the slow verb to begin")
        assert ["quick"] == (await call(house, "echo", text="quick"))["said"]
        house.go_on.set()
    assert "done" == slow.result()


async def test_a_large_answer_arrives_whole(house: ControlFixture) -> None:
    """A hundred thousand bindings are some megabytes; only requests are bounded."""
    answer = await call(house, "echo", text="x" * 1000, times=5000)
    assert 5_000_000 == sum(map(len, answer["said"]))


# ---- what the service refuses ----------------------------------------------------------------------


async def test_a_refusal_keeps_its_code_and_words(house: ControlFixture) -> None:
    """The operator reads what the verb said; it is no error of the service."""
    with pytest.raises(CommandRefusedError, match="there is no server ts9; there are: ts/ts1") as caught:
        await call(house, "refuse")
    assert ("unknown-server", Blame.OPERATOR) == (caught.value.code, caught.value.fault)
    assert [] == house.errors


async def test_an_unknown_verb(house: ControlFixture) -> None:
    """An older service is asked for what only a newer one has."""
    with pytest.raises(CommandRefusedError, match="there is no verb 'upgrade'") as caught:
        await call(house, "upgrade")
    assert "unknown-verb" == caught.value.code


@pytest.mark.parametrize(
    ("params", "match"),
    [
        ({}, "echo: missing a required argument: 'text'"),
        ({"text": "a", "colour": "red"}, "echo: got an unexpected keyword argument 'colour'"),
        ({"text": 7}, "echo: text: Expected `str`, got `int`"),
        ({"text": "a", "times": "many"}, "echo: times: Expected `int`, got `str`"),
        ({"text": "a", "loud": 1}, "echo: loud: Expected `bool`, got `int`"),
        ({"text": "a", "whom": ["b"]}, "echo: whom: Expected `str | null`, got `array`"),
        ({"text": None}, "echo: text: Expected `str`, got `null`"),
    ],
)
async def test_parameters_are_checked_by_name_and_type(
    house: ControlFixture, params: dict[str, Any], match: str
) -> None:
    """Whoever writes another client is told what is wrong, and the verb is not begun."""
    with pytest.raises(CommandRefusedError) as caught:
        await call(house, "echo", **params)
    assert ("bad-parameters", match) == (caught.value.code, str(caught.value))
    assert [] == house.errors


@pytest.mark.parametrize(
    "line",
    [
        b"hello\n",
        b"{\n",
        b"[]\n",
        b"{}\n",
        b'{"verb": 7}\n',
        b'{"verb": "echo", "params": []}\n',
        b'{"verb": "\xff"}\n',
        b"\n",
        b"GET / HTTP/1.1\r\n",
    ],
)
async def test_what_is_no_request_is_answered_so(house: ControlFixture, line: bytes) -> None:
    """And the connection goes on: the next line is understood again."""
    good = encode(ControlRequest("echo", {"text": "still here"}))
    bad, answer = await raw(house, line, good)
    assert (False, "bad-request") == (bad["ok"], bad["error"]["code"])
    assert bad["error"]["message"].startswith("not a request: ")
    assert {"ok": True, "result": {"said": ["still here"], "whom": None}} == answer


async def test_another_version_is_refused(house: ControlFixture) -> None:
    """In words that say which one this is."""
    (answer,) = await raw(house, b'{"v": 2, "verb": "echo", "params": {"text": "a"}}\n')
    assert {"code": "version", "message": "this service speaks version 1, not 2"} == answer["error"]


async def test_a_line_that_is_too_long_ends_the_connection(house: ControlFixture) -> None:
    """Whoever may use the socket may still not fill the router's memory."""
    long = encode(ControlRequest("echo", {"text": "x" * 2 * MAX_REQUEST_BYTES}))
    (answer,) = await raw(house, long, encode(ControlRequest("echo", {"text": "a"})))
    assert {
        "code": "bad-request",
        "message": f"a request has at most {MAX_REQUEST_BYTES} bytes",
    } == answer["error"]
    assert ["a"] == (await call(house, "echo", text="a"))["said"]


@pytest.mark.parametrize(
    ("verb", "params", "what"),
    [
        ("break", {}, "RuntimeError"),
        ("break", {"kind": "type"}, "TypeError"),
        ("odd", {}, "TypeError"),
        ("odd", {"surrogate": True}, "UnicodeEncodeError"),
    ],
)
async def test_an_error_of_ours_is_answered_and_reported(
    house: ControlFixture, verb: str, params: dict[str, Any], what: str
) -> None:
    """The operator gets an answer, the log the traceback, and the connection goes on."""
    request = json.dumps({"verb": verb, "params": params}).encode() + b"\n"
    failed, served = await raw(house, request, encode(ControlRequest("echo", {"text": "a"})))
    assert "internal" == failed["error"]["code"]
    assert failed["error"]["message"].startswith(f"{verb} failed: {what}(")
    assert failed["error"]["message"].endswith("; the log says more")
    assert served["ok"]
    assert [(verb, what)] == [(name, type(error).__name__) for name, error in house.errors]


async def test_a_client_that_leaves_is_no_error(house: ControlFixture) -> None:
    """Ctrl-C in the middle of a request, or before its answer."""
    for sent in (b"", b'{"verb": "ec', encode(ControlRequest("wait"))):
        _, writer = await asyncio.open_unix_connection(str(house.path))
        writer.write(sent)
        await writer.drain()
        writer.transport.abort()
    await wait_until_async(lambda: house.waiting == 1, PATIENCE_S, "the verb to begin")
    house.go_on.set()
    assert ["a"] == (await call(house, "echo", text="a"))["said"]
    assert [] == house.errors


async def test_stopping_ends_connections_and_takes_no_more(house: ControlFixture) -> None:
    """Twice is as good as once; the file stays, it is the supervisor's."""
    reader, writer = await asyncio.open_unix_connection(str(house.path))
    writer.write(encode(ControlRequest("echo", {"text": "a"})))
    await reader.readline()
    await house.server.stop()
    await house.server.stop()
    async with asyncio.timeout(PATIENCE_S):
        assert b"" == await reader.read()
    writer.close()
    assert house.path.exists()
    with pytest.raises(UnreachableError, match="no rdpbalancer answers"):
        await call(house, "echo", text="a")


# ---- what the client says --------------------------------------------------------------------------


def unreachable(path: Path, verb: str = "ping", *, timeout_s: float = PATIENCE_S) -> str:
    """Return in words why a service cannot be reached."""
    with pytest.raises(UnreachableError) as caught, Client(path, timeout_s=timeout_s) as client:
        client.call(verb)
    assert ("unreachable", Blame.OPERATOR) == (caught.value.code, caught.value.fault)
    return str(caught.value)


def test_no_socket(tmp_path: Path) -> None:
    """The commonest case has the most helpful words."""
    path = tmp_path / "control.sock"
    expected = (
        f"no rdpbalancer answers on {path}: is the service running? "
        "(--socket or RDPBALANCER_SOCKET name another control socket)"
    )
    assert expected == unreachable(path)


def test_a_socket_that_nobody_listens_on(tmp_path: Path) -> None:
    """What a killed service leaves behind reads the same."""
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(path))
    assert unreachable(path).startswith(f"no rdpbalancer answers on {path}: is the service running?")


def test_a_socket_that_one_may_not_use(tmp_path: Path) -> None:
    """The answer is not to start the service, but to ask as somebody else."""
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        path.chmod(0o600)
        said = as_nobody(path)
    assert said.startswith(f"you may not use {path}: ask as root")


@pytest.mark.parametrize(
    ("uid", "gid", "who"),
    [
        (0, 0, "root"),
        (0, 1, "root, or as a member of the group daemon"),
        (1, 0, "root, or as the user daemon"),
        (1, 424242, "root, or as the user daemon, or as a member of the group 424242"),
    ],
)
def test_who_may_use_it_is_named(uid: int, gid: int, who: str) -> None:
    """The group is what an administrator joins; one without a name is told by its number."""
    assert who == permitted(uid, gid)


def test_a_path_that_is_no_socket(tmp_path: Path) -> None:
    """A file, or a path longer than the kernel takes, is said as the system says it."""
    file = tmp_path / "control.sock"
    file.write_text("")
    assert unreachable(file).startswith(f"no rdpbalancer answers on {file}")
    long = tmp_path / ("x" * 120)
    assert f"cannot reach {long}: AF_UNIX path too long" == unreachable(long)


Script = Callable[[socket.socket], None]


def scripted(path: Path, script: Script) -> threading.Thread:
    """Listen, and do as the script says with the first connection."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()

    def serve() -> None:
        with listener:
            connection, _ = listener.accept()
            with connection:
                script(connection)

    thread = threading.Thread(target=serve)
    thread.start()
    return thread


def answer(data: bytes) -> Script:
    """Return a script: read the request, and say this."""

    def script(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(data)

    return script


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        (answer(b""), "the service closed the connection; its log says why"),
        (answer(b'{"ok": true, "resu'), "the service closed the connection; its log says why"),
        (answer(b"HTTP/1.1 400 Bad Request\n"), "this is no answer of rdpbalancer: "),
        (answer(b'{"result": 1}\n'), "this is no answer of rdpbalancer: "),
        (answer(b'{"ok": "\xff"}\n'), "this is no answer of rdpbalancer: "),
    ],
    ids=["nothing", "half", "another-protocol", "no-answer", "no-text"],
)
def test_an_answer_that_is_none(tmp_path: Path, script: Script, expected: str) -> None:
    """A router that dies in the middle of an answer is no traceback."""
    path = tmp_path / "control.sock"
    thread = scripted(path, script)
    assert unreachable(path).startswith(expected)
    thread.join(PATIENCE_S)


def test_a_service_that_does_not_answer(tmp_path: Path) -> None:
    """A stuck router keeps nobody waiting for ever."""
    done = threading.Event()

    def say_nothing(_: socket.socket) -> None:
        done.wait(PATIENCE_S)

    thread = scripted(tmp_path / "control.sock", say_nothing)
    said = unreachable(tmp_path / "control.sock", timeout_s=0.1)
    assert "the service does not answer: timed out" == said
    done.set()
    thread.join(PATIENCE_S)
