"""The line between two processes: messages whole and in order, descriptors with them, ends told once."""

import array
import asyncio
import errno
import socket
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from rdpbalancer.ipc.channel import MAX_MESSAGE_BYTES, Channel, pair
from tests.support.running_balancer import open_descriptors
from tests.support.wait import wait_until_async
from tests.unit.conftest import Run


class Word(msgspec.Struct, tag="word", array_like=True):
    """A message of the tests."""

    number: int
    data: bytes = b""


DECODER = msgspec.msgpack.Decoder(Word)


class Ear:
    """One end of a line, and all that it has heard."""

    def __init__(self, sock: socket.socket) -> None:
        self.words: list[Word] = []
        self.sockets: list[socket.socket] = []
        self.closes = 0
        self.channel = Channel(sock, DECODER, on_message=self._heard, on_close=self._closed)

    def _heard(self, word: Word, sockets: list[socket.socket]) -> None:
        self.words.append(word)
        self.sockets += sockets

    def _closed(self) -> None:
        self.closes += 1


@pytest.fixture
def line() -> Iterator[tuple[socket.socket, socket.socket]]:
    """The two sockets of a line."""
    one, other = pair()
    yield one, other
    one.close()
    other.close()


Line = tuple[socket.socket, socket.socket]


def test_messages_arrive_in_order(run: Run, line: Line) -> None:
    """Both ways, whole."""

    async def scene() -> None:
        one, other = Ear(line[0]), Ear(line[1])
        for number in range(200):
            one.channel.send(Word(number, b"x" * number))
            other.channel.send(Word(-number))
        await wait_until_async(lambda: len(one.words) == len(other.words) == 200, 5, "400 messages")
        assert [Word(number, b"x" * number) for number in range(200)] == other.words
        one.channel.close()
        other.channel.close()

    run(scene())


def test_a_backlog_is_sent_later(run: Run, line: Line) -> None:
    """What the kernel does not take now waits in order, sockets included, and blocks nobody."""

    async def scene() -> None:
        one = Ear(line[0])
        before = open_descriptors()
        ours = []
        for number in range(300):
            mine, passed = socket.socketpair()
            ours.append(mine)
            one.channel.send(Word(number, bytes(3000)), [passed])
        assert 0 < one.channel.backlog < 300
        other = Ear(line[1])
        await wait_until_async(lambda: len(other.words) == 300, 10, "300 messages")
        assert list(range(300)) == [word.number for word in other.words]
        assert 0 == one.channel.backlog
        for number, (mine, arrived) in enumerate(zip(ours, other.sockets, strict=True)):
            mine.send(b"%d" % number)
            assert b"%d" % number == arrived.recv(10)
            assert not arrived.getblocking()
            mine.close()
            arrived.close()
        assert before == open_descriptors()
        one.channel.close()
        other.channel.close()

    run(scene())


def test_the_largest_message(run: Run, line: Line) -> None:
    """A message just below the bound arrives whole; one above it closes the line, with a reason."""

    async def scene() -> None:
        one, other = Ear(line[0]), Ear(line[1])
        one.channel.send(Word(1, bytes(MAX_MESSAGE_BYTES - 100)))
        await wait_until_async(lambda: other.words, 5, "the large message")
        one.channel.send(Word(2, bytes(MAX_MESSAGE_BYTES + 1)))
        await wait_until_async(lambda: other.channel.closed, 5, "a closed line")
        assert "cut short" in str(other.channel.error)
        await wait_until_async(lambda: one.channel.closed, 5, "the other end's close")
        assert (1, 1) == (one.closes, other.closes)

    run(scene())


@pytest.mark.parametrize("bytes_sent", [b"\x00", b"\x93\xa5other\x01\x02", b"\xc1", b"x" * 500])
def test_another_language_closes_the_line(run: Run, line: Line, bytes_sent: bytes) -> None:
    """A message of another version is refused with a clear error; sockets that came with it are closed."""

    async def scene() -> None:
        before = open_descriptors()
        other = Ear(line[1])
        mine, passed = socket.socketpair()
        line[0].sendmsg(
            [bytes_sent],
            [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [passed.fileno()]))],
        )
        passed.close()
        await wait_until_async(lambda: other.channel.closed, 5, "a closed line")
        assert "another version" in str(other.channel.error)
        assert b"" == mine.recv(1)
        mine.close()
        assert (1, []) == (other.closes, other.words)
        assert before == open_descriptors() + 1  # the line's own end is closed

    run(scene())


def test_the_other_end_is_gone(run: Run, line: Line) -> None:
    """Told once; what was said before arrives; what is said after goes nowhere, sockets are closed."""

    async def scene() -> None:
        one, other = Ear(line[0]), Ear(line[1])
        one.channel.send(Word(7))
        one.channel.close()
        await wait_until_async(lambda: other.closes, 5, "the close")
        assert [Word(7)] == other.words
        mine, passed = socket.socketpair()
        other.channel.send(Word(8), [passed])
        assert b"" == mine.recv(1)
        mine.close()
        assert (0, 1) == (one.closes, other.closes)
        other.channel.close()

    run(scene())


def test_sending_to_a_dead_process(run: Run, line: Line) -> None:
    """A line whose other end died while we send is closed, and its owner told, not the sender broken."""

    async def scene() -> None:
        one = Ear(line[0])
        line[1].close()
        pairs = [socket.socketpair() for _ in range(3)]
        for number, (_, passed) in enumerate(pairs):
            one.channel.send(Word(number), [passed])
        await wait_until_async(lambda: one.closes, 5, "the close")
        for mine, _ in pairs:
            assert b"" == mine.recv(1)
            mine.close()
        assert 1 == one.closes

    run(scene())


def test_what_a_dead_process_has_not_taken_can_be_taken_back(run: Run, line: Line) -> None:
    """While the owner is told: every socket that the kernel has not taken, open, in order."""

    async def scene() -> None:
        back: list[list[socket.socket]] = []

        def closed() -> None:
            back.extend(list(sockets) for sockets in channel.take_back())

        channel = Channel(line[0], DECODER, on_message=lambda *_: None, on_close=closed)
        line[1].close()
        mine, passed = socket.socketpair()
        channel.send(Word(1))
        channel.send(Word(2), [passed])
        await wait_until_async(lambda: back, 5, "the close")
        assert [[], [passed]] == back
        mine.send(b"x")
        assert b"x" == passed.recv(1)
        assert 0 == channel.backlog
        mine.close()
        passed.close()

    run(scene())


@pytest.mark.parametrize("silent", [True, False], ids=["silent", "sending"])
def test_the_last_words_of_a_dead_process_are_heard(run: Run, line: Line, *, silent: bool) -> None:
    """It dies with something of ours unread: the kernel tells that first, and then what it had said."""

    async def scene() -> None:
        one, other = Ear(line[0]), line[1]
        one.channel.send(Word(0))
        for number in range(200):
            other.send(msgspec.msgpack.encode(Word(number)))
        other.close()
        if not silent:
            one.channel.send(Word(1))
        await wait_until_async(lambda: one.closes, 5, "the close")
        assert [Word(number) for number in range(200)] == one.words
        assert 1 == one.closes

    run(scene())


def test_closing_drops_the_backlog(run: Run, line: Line) -> None:
    """Sockets that wait to be sent when the line is closed are closed, too."""

    async def scene() -> None:
        before = open_descriptors()
        one = Ear(line[0])
        ours = []
        for number in range(300):
            mine, passed = socket.socketpair()
            ours.append(mine)
            one.channel.send(Word(number, bytes(3000)), [passed])
        assert one.channel.backlog
        one.channel.close()
        line[1].close()
        for mine in ours:
            mine.close()
        assert before - 2 == open_descriptors()
        await asyncio.sleep(0)

    run(scene())


def test_a_line_closed_by_its_own_message(run: Run, line: Line) -> None:
    """A receiver that closes the line hears nothing more."""

    async def scene() -> None:
        one = Ear(line[0])
        heard: list[int] = []

        def close_at_first(word: Word, _sockets: list[socket.socket]) -> None:
            heard.append(word.number)
            channel.close()

        channel = Channel(line[1], DECODER, on_message=close_at_first, on_close=lambda: heard.append(-1))
        for number in range(5):
            one.channel.send(Word(number))
        await wait_until_async(lambda: one.closes, 5, "the close")
        assert [0] == heard

    run(scene())


class Short:
    """A socket whose kernel refuses descriptors for want of something, as long as `error` is set."""

    def __init__(self, sock: socket.socket, error: int) -> None:
        self._sock = sock
        self.error = error
        self.refusals = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def sendmsg(self, *args: Any) -> int:
        """Refuse, or send."""
        if self.error:
            self.refusals += 1
            raise OSError(self.error, "refused")
        return self._sock.sendmsg(*args)


@pytest.mark.parametrize("error", [errno.ETOOMANYREFS, errno.ENOBUFS])
@pytest.mark.parametrize("was_full", [False, True], ids=["empty", "full before"])
def test_a_shortage_is_waited_out_without_spinning(
    run: Run, line: Line, error: int, *, was_full: bool
) -> None:
    """The socket is writable all the while: a timer tries again, and then all is sent, in order."""

    async def scene() -> None:
        loop = asyncio.get_running_loop()
        one = Ear(line[0])
        before = 0
        while was_full and not one.channel.backlog:
            one.channel.send(Word(before, bytes(3000)))
            before += 1
        sock = one.channel._sock = Short(line[0], error)  # type: ignore[assignment]
        mine, passed = socket.socketpair()
        one.channel.send(Word(before), [passed])
        one.channel.send(Word(before + 1))
        other = Ear(line[1])
        await wait_until_async(lambda: sock.refusals, 5, "a refusal")
        begun_at, counted = loop.time(), sock.refusals
        await wait_until_async(lambda: sock.refusals >= counted + 5, 5, "five more refusals")
        assert loop.time() - begun_at > 0.03
        sock.error = 0
        await wait_until_async(lambda: len(other.words) == before + 2, 5, "all messages")
        assert list(range(before + 2)) == [word.number for word in other.words]
        assert 0 == one.channel.backlog
        for end in (mine, *other.sockets):
            end.close()
        one.channel.close()
        other.channel.close()

    run(scene())
