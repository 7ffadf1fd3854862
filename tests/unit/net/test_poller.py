"""Waiting for many sockets at once: no change is lost, no deadline is forgotten, nobody is resumed twice."""

import asyncio
import itertools
import resource
import socket
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import pytest

from rdpbalancer.net.poller import FdWaiter, Poller, StepRunner
from tests.support.running_balancer import open_descriptors
from tests.support.steps import Stepped, stepped, watching
from tests.support.wait import wait_until_async

PATIENCE_S = 10.0
# Deadlines are looked for together, with timers of whole milliseconds; the rest is for a busy machine.
EARLY_S = 0.001
LATE_S = 1.0


def soon(seconds: float = PATIENCE_S) -> float:
    """Return a deadline."""
    return time.monotonic() + seconds


class Scene:
    """A loop's waits, sockets that are closed at the end, and what was told to the exception handler."""

    def __init__(self, waits: Poller, stack: ExitStack) -> None:
        self.waits = waits
        self.errors: list[BaseException] = []
        self._stack = stack
        asyncio.get_running_loop().set_exception_handler(
            lambda _loop, context: self.errors.append(context["exception"])
        )

    def pair(self) -> tuple[socket.socket, socket.socket]:
        """Return the peer's end and ours, which does not block."""
        peer, ours = socket.socketpair()
        self._stack.enter_context(peer)
        self._stack.enter_context(ours)
        ours.setblocking(False)
        return peer, ours

    def tcp(self) -> tuple[socket.socket, socket.socket]:
        """As `pair`, over TCP."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            peer = self._stack.enter_context(socket.create_connection(listener.getsockname()))
            ours = self._stack.enter_context(listener.accept()[0])
        ours.setblocking(False)
        return peer, ours

    def watch(self, ours: socket.socket) -> FdWaiter:
        """Watch a socket until the end of the test, at the latest."""
        watch = self.waits.watch(ours)
        self._stack.callback(watch.end)
        return watch

    async def quiet(self, ours: socket.socket) -> FdWaiter:
        """Watch a socket whose first news, that it is there and has room, has been heard."""
        watch = self.watch(ours)
        await stepped(once(watch))
        return watch

    async def turn(self) -> None:
        """Return when the loop has heard all that has happened so far: the kernel tells changes in order."""
        peer, ours = self.pair()
        watch = await self.quiet(ours)
        waiting = Stepped(once(watch))
        peer.send(b"x")
        await waiting
        watch.end()


Story = Callable[[Scene], Coroutine[Any, Any, None]]
Run = Callable[[Story], None]


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Tell a story on one of the two loops that the service runs on; every test is run on both.

    At the end no watch and no descriptor is left, and nothing is left in `Scene.errors`.
    """
    factory = asyncio.new_event_loop
    if request.param == "uvloop":
        factory = pytest.importorskip("uvloop").new_event_loop
    factory().close()  # what uvloop opens once for its process stays open

    def told(story: Story) -> None:
        async def main() -> None:
            with watching() as waits, ExitStack() as stack:
                scene = Scene(waits, stack)
                async with asyncio.timeout(PATIENCE_S):
                    await story(scene)
                assert [] == scene.errors

        before = open_descriptors()
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(main())
        assert before == open_descriptors()

    return told


async def once(watch: FdWaiter, deadline_at: float = float("inf")) -> None:
    """Wait once, whatever for."""
    await watch.ready(deadline_at)


async def received(ours: socket.socket, watch: FdWaiter, deadline_at: float = float("inf")) -> bytes:
    """Return what comes, as everybody reads who has a watch: try, and wait."""
    while True:
        try:
            return ours.recv(65536)
        except BlockingIOError:
            await watch.ready(deadline_at)


def fill(sock: socket.socket) -> int:
    """Send until there is no room; return how many bytes there was room for."""
    count = 0
    try:
        while True:
            count += sock.send(bytes(65536))
    except BlockingIOError:
        return count


# ---- what ends a wait ------------------------------------------------------------------------------


def test_data_ends_a_wait(run: Run) -> None:
    """And not before it comes; again for what comes after it."""

    async def story(scene: Scene) -> None:
        peer, ours = scene.pair()
        watch = await scene.quiet(ours)
        for data in (b"one", b"two"):
            waiting = Stepped(once(watch))
            await scene.turn()
            assert not waiting.done
            peer.send(data)
            await waiting
            assert data == ours.recv(100)

    run(story)


def test_data_that_was_there_first_ends_a_wait(run: Run) -> None:
    """Whoever begins to watch is told of what came before."""

    async def story(scene: Scene) -> None:
        peer, ours = scene.pair()
        peer.send(b"early")
        assert b"early" == await stepped(received(ours, scene.watch(ours)))

    run(story)


def test_room_ends_a_wait(run: Run) -> None:
    """A peer that reads lets the writer go on."""

    async def story(scene: Scene) -> None:
        peer, ours = scene.pair()
        watch = await scene.quiet(ours)
        full = fill(ours)
        waiting = Stepped(once(watch))
        await scene.turn()
        assert not waiting.done
        left = full
        while left:
            left -= len(peer.recv(left))
        await waiting
        assert 1 == ours.send(b"x")

    run(story)


@pytest.mark.parametrize("how", ["close", "shutdown", "reset"])
def test_the_peers_end_ends_a_wait(run: Run, how: str) -> None:
    """However it leaves."""

    async def story(scene: Scene) -> None:
        peer, ours = scene.tcp()
        watch = await scene.quiet(ours)
        waiting = Stepped(once(watch))
        await scene.turn()
        assert not waiting.done
        if how == "shutdown":
            peer.shutdown(socket.SHUT_WR)
        else:
            if how == "reset":
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            peer.close()
        await waiting
        if how == "reset":
            with pytest.raises(ConnectionResetError):
                ours.recv(100)
        else:
            assert b"" == ours.recv(100)

    run(story)


def test_a_connection_that_comes_about_ends_a_wait(run: Run) -> None:
    """Dialling waits for nothing else."""

    async def story(scene: Scene) -> None:
        with (
            socket.create_server(("127.0.0.1", 0)) as listener,
            socket.socket(type=socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as ours,
        ):
            ours.connect_ex(listener.getsockname())
            watch = scene.watch(ours)
            await stepped(once(watch))
            assert listener.getsockname() == ours.getpeername()
            watch.end()

    run(story)


def test_news_while_nobody_waits_is_not_lost(run: Run) -> None:
    """A change is told once; whoever tries before waiting does not depend on being told."""

    async def story(scene: Scene) -> None:
        peer, ours = scene.pair()
        watch = await scene.quiet(ours)
        peer.send(b"unheard")
        await scene.turn()
        assert b"unheard" == await stepped(received(ours, watch))
        reading = Stepped(received(ours, watch))
        await scene.turn()
        assert not reading.done  # the old news do not end a new wait
        peer.send(b"heard")
        assert b"heard" == await reading

    run(story)


def test_thousands_at_once(run: Run) -> None:
    """More changes in one moment than one look at them brings."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    count = 2000 if limit == resource.RLIM_INFINITY or limit > 5000 else 300

    async def story(scene: Scene) -> None:
        pairs = [scene.pair() for _ in range(count)]
        watches = [scene.watch(ours) for _, ours in pairs]
        await scene.turn()
        reading = [Stepped(received(ours, watch)) for (_, ours), watch in zip(pairs, watches, strict=True)]
        assert not any(one.done for one in reading)
        for number, (peer, _) in enumerate(pairs):
            peer.send(b"%d" % number)
        assert [b"%d" % number for number in range(count)] == [await one for one in reading]
        assert count == len(scene.waits)

    run(story)


# ---- a peer that hangs up --------------------------------------------------------------------------


def depart(peer: socket.socket, how: str) -> None:
    """Leave in that way."""
    if how == "reset":
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    if how == "half-close":
        peer.shutdown(socket.SHUT_WR)
    else:
        peer.close()


@pytest.mark.parametrize("said", [b"", b"something unread"])
@pytest.mark.parametrize("only", [True, False])
@pytest.mark.parametrize(("how", "gone"), [("half-close", False), ("close", False), ("reset", True)])
def test_a_hang_up_is_told_at_once(run: Run, how: str, *, gone: bool, only: bool, said: bytes) -> None:
    """Also behind bytes that nobody reads, which are none; and it can be asked afterwards."""

    async def story(scene: Scene) -> None:
        peer, ours = scene.tcp()
        told: list[bool] = []
        watch = scene.waits.watch(ours, only_hang_up=only)
        watch.on_hang_up = told.append
        peer.send(said)
        await scene.turn()
        assert ([], None) == (told, watch.gone)
        depart(peer, how)
        await wait_until_async(lambda: told, PATIENCE_S, "a hang-up")
        assert (gone, gone) == (told[-1], watch.gone)
        watch.end()
        assert None is watch.on_hang_up

    run(story)


@pytest.mark.parametrize(("how", "gone"), [("half-close", False), ("reset", True)])
def test_a_hang_up_before_anybody_asked(run: Run, how: str, *, gone: bool) -> None:
    """It ends a wait, as any news does, and is not forgotten."""

    async def story(scene: Scene) -> None:
        peer, ours = scene.tcp()
        watch = await scene.quiet(ours)
        waiting = Stepped(once(watch))
        depart(peer, how)
        await waiting
        assert gone is watch.gone
        watch.end()

    run(story)


def test_a_hang_up_may_end_a_wait_for_something_else(run: Run) -> None:
    """An error that it raises in the steps ends their wait for another socket, or for a future."""

    async def story(scene: Scene) -> None:
        _, other = scene.pair()
        watch_of_another = await scene.quiet(other)
        future = asyncio.get_running_loop().create_future()

        async def for_a_future() -> None:
            await future

        for waits in (once(watch_of_another), for_a_future()):
            peer, ours = scene.tcp()
            steps = Stepped(waits)
            watch = scene.waits.watch(ours, only_hang_up=True)
            watch.on_hang_up = partial(hung_up, steps)
            peer.close()
            with pytest.raises(ConnectionError):
                await steps
            watch.end()
            steps.throw(ConnectionError("at its end it does nothing"))

    run(story)


def hung_up(steps: Stepped[None], _gone: bool) -> None:  # noqa: FBT001 (as a watch tells it)
    """End these steps: whom they serve has left."""
    steps.throw(ConnectionError("gone"))


# ---- deadlines -------------------------------------------------------------------------------------


async def too_late(watch: FdWaiter, deadline_at: float) -> float:
    """Wait in vain; return how much later than the deadline that was noticed."""
    with pytest.raises(TimeoutError):
        await watch.ready(deadline_at)
    return time.monotonic() - deadline_at


@pytest.mark.parametrize("order", list(itertools.permutations([0.02, 0.021, 0.06, 0.13])))
def test_deadlines_in_any_order(run: Run, order: Sequence[float]) -> None:
    """Each wait ends at its own, and not before it."""

    async def story(scene: Scene) -> None:
        watches = [await scene.quiet(scene.pair()[1]) for _ in order]
        now = time.monotonic()
        waiting = [
            Stepped(too_late(watch, now + after_s)) for watch, after_s in zip(watches, order, strict=True)
        ]
        for late_s in [await one for one in waiting]:
            assert -EARLY_S <= late_s < LATE_S

    run(story)


@pytest.mark.parametrize("after_s", [0.0, -5.0])
def test_a_deadline_that_has_passed(run: Run, after_s: float) -> None:
    """Ends a wait at once, but a wait it was."""

    async def story(scene: Scene) -> None:
        watch = await scene.quiet(scene.pair()[1])
        waiting = Stepped(too_late(watch, soon(after_s)))
        assert not waiting.done
        assert (await waiting) + after_s < LATE_S

    run(story)


def test_a_nearer_deadline_comes_first(run: Run) -> None:
    """Although all that was known before lies far away; and the far one still holds."""

    async def story(scene: Scene) -> None:
        far_off = Stepped(too_late(await scene.quiet(scene.pair()[1]), soon(0.2)))
        near = Stepped(too_late(await scene.quiet(scene.pair()[1]), soon(0.02)))
        assert -EARLY_S <= await near
        assert not far_off.done
        assert -EARLY_S <= await far_off < LATE_S

    run(story)


def test_a_deadline_is_one_waits(run: Run) -> None:
    """News in time take it away: it does not strike whoever does not wait, nor the next wait."""

    async def story(scene: Scene) -> None:
        peer, ours = scene.pair()
        watch = await scene.quiet(ours)
        near_at = soon(0.05)
        waiting = Stepped(received(ours, watch, near_at))
        peer.send(b"in time")
        assert b"in time" == await waiting
        waiting = Stepped(received(ours, watch, soon()))
        await stepped(too_late(await scene.quiet(scene.pair()[1]), near_at + 0.05))
        assert not waiting.done
        peer.send(b"next")
        assert b"next" == await waiting

    run(story)


def test_after_a_deadline_one_may_wait_again(run: Run) -> None:
    """The socket is as it was."""

    async def story(scene: Scene) -> None:
        peer, ours = scene.pair()
        watch = await scene.quiet(ours)
        for _ in range(2):
            assert -EARLY_S <= await stepped(too_late(watch, soon(0.01)))
        waiting = Stepped(received(ours, watch))
        peer.send(b"at last")
        assert b"at last" == await waiting

    run(story)


def test_thousands_of_silent_ones(run: Run) -> None:
    """All end, with deadlines on both sides of the moments when they are looked for."""

    async def story(scene: Scene) -> None:
        watches = [await scene.quiet(scene.pair()[1]) for _ in range(300)]
        now = time.monotonic()
        waiting = [Stepped(too_late(watch, now + number * 0.0005)) for number, watch in enumerate(watches)]
        late_s = [await one for one in waiting]
        assert -EARLY_S <= min(late_s)
        assert max(late_s) < LATE_S

    run(story)


# ---- the end of a watch ----------------------------------------------------------------------------


def test_an_ended_watch_is_not_resumed(run: Run) -> None:
    """Neither by data nor by its deadline; ending it twice does nothing."""

    async def story(scene: Scene) -> None:
        peer, ours = scene.pair()
        watch = await scene.quiet(ours)
        near_at = soon(0.02)
        waiting = Stepped(once(watch, near_at))
        watch.end()
        watch.end()
        assert 0 == len(scene.waits)
        peer.send(b"x")
        await scene.turn()
        await stepped(too_late(await scene.quiet(scene.pair()[1]), near_at + 0.05))
        assert not waiting.done
        waiting.cancel()

    run(story)


@pytest.mark.parametrize("how", ["end", "cancel", "cancel and end"])
@pytest.mark.parametrize("news", ["data", "deadline"])
def test_ending_another_in_the_same_batch(run: Run, news: str, how: str) -> None:
    """The one whose turn comes next is not resumed; the one behind it is."""

    async def story(scene: Scene) -> None:
        pairs = [scene.pair() for _ in range(3)]
        watches = [await scene.quiet(ours) for _, ours in pairs]
        deadline_at = soon(0.0) if news == "deadline" else soon()
        resumed = []

        async def wait(number: int, then: Callable[[], None] = lambda: None) -> None:
            try:
                await watches[number].ready(deadline_at)
            except TimeoutError:
                assert news == "deadline"
            resumed.append(number)
            then()

        def end_the_second() -> None:
            if "cancel" in how:
                second.cancel()
            if "end" in how:
                watches[1].end()

        first = Stepped(wait(0, then=end_the_second))
        second = Stepped(wait(1))
        third = Stepped(wait(2))
        if news == "data":
            for peer, _ in pairs:
                peer.send(b"x")
        await first
        await third
        await scene.turn()
        assert [0, 2] == resumed
        second.cancel()

    run(story)


def test_a_reused_descriptor_is_watched_anew(run: Run) -> None:
    """Its number is not the socket: nothing of its predecessor's is left."""

    async def story(scene: Scene) -> None:
        _, ours = scene.pair()
        number = ours.fileno()
        watch = await scene.quiet(ours)
        stale = Stepped(once(watch, soon(0.02)))
        watch.end()
        ours.close()
        peer, ours = socket.socketpair()
        with peer, ours:
            assert number in {peer.fileno(), ours.fileno()}
            peer, ours = (peer, ours) if ours.fileno() == number else (ours, peer)
            ours.setblocking(False)
            watch = await scene.quiet(ours)
            waiting = Stepped(received(ours, watch))
            await stepped(too_late(await scene.quiet(scene.pair()[1]), soon(0.05)))
            assert (False, False) == (waiting.done, stale.done)
            peer.send(b"new")
            assert b"new" == await waiting
            assert not stale.done
            watch.end()
        stale.cancel()

    run(story)


def test_a_descriptor_reused_within_a_batch(run: Run) -> None:
    """The successor of a socket with news may be told for nothing; what is its own it hears all the same."""

    async def story(scene: Scene) -> None:
        first_peer, first = scene.pair()
        old_peer, old = scene.pair()
        new_peer, new = scene.pair()
        first_watch, old_watch = await scene.quiet(first), await scene.quiet(old)
        begun: list[Stepped[bytes]] = []

        async def replace() -> None:
            await first_watch.ready(soon())
            old_watch.end()
            number = old.fileno()
            old.close()
            successor = new.dup()
            scene._stack.enter_context(successor)
            assert number == successor.fileno()
            begun.append(Stepped(received(successor, scene.watch(successor))))

        replacing, stale = Stepped(replace()), Stepped(once(old_watch))
        first_peer.send(b"x")
        old_peer.send(b"x")
        await replacing
        await scene.turn()
        assert (False, False) == (begun[0].done, stale.done)
        new_peer.send(b"for the new one")
        assert b"for the new one" == await begun[0]
        stale.cancel()

    run(story)


def test_closing_looks_away(run: Run) -> None:
    """The loop reads no more, no timer is left, and the descriptor is closed."""

    async def story(scene: Scene) -> None:
        loop = asyncio.get_running_loop()
        before = open_descriptors()
        waits = Poller()
        _, ours = scene.pair()
        watch = waits.watch(ours)
        await stepped(once(watch))
        waiting = Stepped(once(watch, soon(60)))
        waiting.cancel()
        watch.end()
        timer, number = waits._timer, waits._epoll.fileno()
        waits.close()
        assert before + 2 == open_descriptors()  # the pair
        assert timer is not None
        assert timer.cancelled()
        assert not loop.remove_reader(number)

    run(story)


# ---- steps -----------------------------------------------------------------------------------------


class Ends:
    """The ends that were told to it, as `on_done`."""

    def __init__(self) -> None:
        self.told: list[StepRunner] = []

    def __call__(self, steps: StepRunner) -> None:
        """Take note of an end."""
        assert steps.done
        self.told.append(steps)


def test_steps_begin_at_once(run: Run) -> None:
    """Up to the first wait, before anything else happens; without a wait, to the end."""

    async def story(scene: Scene) -> None:
        peer, ours = scene.pair()
        watch = await scene.quiet(ours)
        ends, heard = Ends(), []

        async def listen() -> None:
            heard.append("begun")
            await watch.ready(soon())
            heard.append("gone on")

        steps = StepRunner(listen(), ends)
        assert (["begun"], False, []) == (heard, steps.done, ends.told)
        peer.send(b"x")
        await scene.turn()
        assert (["begun", "gone on"], True, [steps]) == (heard, steps.done, ends.told)
        steps.cancel()
        peer.send(b"x")
        await scene.turn()
        assert [steps] == ends.told

        async def no_wait() -> None:
            heard.append("all")

        at_once = StepRunner(no_wait(), ends)
        assert (True, [steps, at_once], "all") == (at_once.done, ends.told, heard[-1])

    run(story)


def test_several_waits_within_one_change(run: Run) -> None:
    """A coroutine goes from socket to socket, and none of its waits needs a turn of the loop of its own."""

    async def story(scene: Scene) -> None:
        pairs = [scene.pair() for _ in range(3)]
        watches = [await scene.quiet(ours) for _, ours in pairs]

        async def all_of_them() -> bytes:
            return b"".join(
                [await received(ours, watch, soon()) for (_, ours), watch in zip(pairs, watches, strict=True)]
            )

        reading = Stepped(all_of_them())
        for (peer, _), data in zip(reversed(pairs), (b"3", b"2", b"1"), strict=True):
            assert not reading.done
            peer.send(data)
            await scene.turn()
        assert b"123" == await reading

    run(story)


@pytest.mark.parametrize("news", ["data", "deadline"])
def test_cancelled_where_it_waits(run: Run, news: str) -> None:
    """CancelledError is raised there, clean-up runs, the end is told once; later news do nothing."""

    async def story(scene: Scene) -> None:
        peer, ours = scene.pair()
        watch = await scene.quiet(ours)
        near_at = soon(0.02)
        ends, heard = Ends(), []

        async def listen() -> None:
            try:
                await watch.ready(near_at)
            except asyncio.CancelledError:
                heard.append("cancelled")
                raise
            finally:
                heard.append("cleaned up")

        steps = StepRunner(listen(), ends)
        steps.cancel()
        assert (["cancelled", "cleaned up"], True, [steps]) == (heard, steps.done, ends.told)
        steps.cancel()
        if news == "data":
            peer.send(b"x")
        else:
            await stepped(too_late(await scene.quiet(scene.pair()[1]), near_at + 0.05))
        await scene.turn()
        assert (["cancelled", "cleaned up"], [steps]) == (heard, ends.told)

    run(story)


def test_a_watch_outlives_a_cancelled_wait(run: Run) -> None:
    """The next to wait for it hears its own news only, not the deadline of the one before."""

    async def story(scene: Scene) -> None:
        peer, ours = scene.pair()
        watch = await scene.quiet(ours)
        near_at = soon(0.02)
        Stepped(once(watch, near_at)).cancel()
        await stepped(too_late(await scene.quiet(scene.pair()[1]), near_at + 0.05))
        waiting = Stepped(received(ours, watch, soon()))
        peer.send(b"mine")
        assert b"mine" == await waiting

    run(story)


def test_a_cancellation_that_is_dealt_with(run: Run) -> None:
    """A coroutine that returns instead has ended as well."""

    async def story(scene: Scene) -> None:
        watch = await scene.quiet(scene.pair()[1])
        ends = Ends()

        async def listen() -> None:
            try:
                await watch.ready(soon())
            except asyncio.CancelledError:
                return

        steps = StepRunner(listen(), ends)
        steps.cancel()
        assert (True, [steps]) == (steps.done, ends.told)

    run(story)


def test_a_clean_up_that_fails(run: Run) -> None:
    """A cancelled coroutine has ended all the same: its end is told, and later news do nothing."""

    async def story(scene: Scene) -> None:
        peer, ours = scene.pair()
        watch = await scene.quiet(ours)
        ends = Ends()

        async def listen() -> None:
            try:
                await watch.ready(soon())
            finally:
                raise OSError("clean-up")

        steps = StepRunner(listen(), ends)
        try:
            steps.cancel()
        except OSError as error:
            scene.errors.append(error)
        peer.send(b"x")
        await scene.turn()
        assert (True, [steps]) == (steps.done, ends.told)
        assert ["clean-up"] == [str(error) for error in scene.errors]
        scene.errors.clear()

    run(story)


async def wrong(watch: FdWaiter) -> None:
    """Fail when the wait is over."""
    await watch.ready(soon())
    raise ValueError("wrong")


async def cancelled(watch: FdWaiter) -> None:
    """Come upon a future that somebody has cancelled."""
    await watch.ready(soon())
    never = asyncio.get_running_loop().create_future()
    never.cancel()
    await never


@pytest.mark.parametrize(("failing", "error"), [(wrong, ValueError), (cancelled, asyncio.CancelledError)])
def test_an_error_does_not_cost_the_others_their_news(
    run: Run, failing: Callable[[FdWaiter], Coroutine[Any, Any, None]], error: type[BaseException]
) -> None:
    """It goes to the loop's exception handler; whoever is behind it in the batch goes on."""

    async def story(scene: Scene) -> None:
        pairs = [scene.pair() for _ in range(4)]
        watches = [await scene.quiet(ours) for _, ours in pairs]
        ends = Ends()
        first = Stepped(received(pairs[0][1], watches[0]))
        steps = StepRunner(failing(watches[1]), ends)
        behind = [Stepped(received(pairs[number][1], watches[number])) for number in (2, 3)]
        for peer, _ in pairs:
            peer.send(b"x")
        await scene.turn()
        assert [True, True, True] == [one.done for one in (first, *behind)]
        assert (True, [steps]) == (steps.done, ends.told)
        told = [type(one) for one in scene.errors]
        assert ([error] if error is ValueError else told) == told
        scene.errors.clear()
        assert [b"x"] * 3 == [await one for one in (first, *behind)]

    run(story)


def test_an_error_at_a_deadline_does_not_cost_the_others_theirs(run: Run) -> None:
    """Those in the same batch, and those whose time comes later."""

    async def story(scene: Scene) -> None:
        watches = [await scene.quiet(scene.pair()[1]) for _ in range(4)]
        near_at = soon(0.02)
        ends = Ends()
        before = Stepped(too_late(watches[0], near_at))
        steps = StepRunner(once(watches[1], near_at), ends)
        behind = Stepped(too_late(watches[2], near_at))
        later = Stepped(too_late(watches[3], near_at + 0.05))
        for one in (before, behind, later):
            assert -EARLY_S <= await one < LATE_S
        assert [steps] == ends.told
        assert [TimeoutError] == [type(error) for error in scene.errors]
        scene.errors.clear()

    run(story)


def test_an_error_before_the_first_wait(run: Run) -> None:
    """It goes to the loop's exception handler as well; whoever began the coroutine has done nothing wrong."""

    async def story(scene: Scene) -> None:
        ends = Ends()

        async def fail() -> None:
            raise ValueError("at once")

        steps = StepRunner(fail(), ends)
        await scene.turn()
        assert (True, [steps]) == (steps.done, ends.told)
        assert ["at once"] == [str(error) for error in scene.errors]
        scene.errors.clear()

    run(story)


# ---- steps and futures -----------------------------------------------------------------------------


async def result_of(future: Awaitable[str]) -> str:
    """Await a future."""
    return await future


def test_a_futures_result(run: Run) -> None:
    """One that comes, and one that is there."""

    async def story(_scene: Scene) -> None:
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        waiting = Stepped(result_of(future))
        assert not waiting.done
        future.set_result("granted")
        assert "granted" == await waiting
        at_once = Stepped(result_of(future))
        assert at_once.done
        assert "granted" == await at_once

    run(story)


def test_a_futures_exception(run: Run) -> None:
    """It is raised where it is awaited."""

    async def story(_scene: Scene) -> None:
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        waiting = Stepped(result_of(future))
        future.set_exception(ValueError("no"))
        with pytest.raises(ValueError, match="no"):
            await waiting

    run(story)


def test_a_future_that_is_cancelled(run: Run) -> None:
    """CancelledError, as for a task."""

    async def story(_scene: Scene) -> None:
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        waiting = Stepped(result_of(future))
        future.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    run(story)


def test_several_await_one_future(run: Run) -> None:
    """Steps and a task, as several tasks could."""

    async def story(_scene: Scene) -> None:
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        waiting = [Stepped(result_of(future)) for _ in range(2)]
        asyncio.get_running_loop().call_soon(future.set_result, "for all")
        assert ["for all"] * 3 == [await future, *[await one for one in waiting]]

    run(story)


@pytest.mark.parametrize("done_first", [False, True])
def test_cancelled_while_it_awaits_a_future(run: Run, *, done_first: bool) -> None:
    """In the very moment of its result, too: CancelledError, and the result resumes nobody."""

    async def story(scene: Scene) -> None:
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        waiting = Stepped(result_of(future))
        if done_first:
            future.set_result("granted")
        waiting.cancel()
        assert waiting.done
        if not done_first:
            future.set_result("granted")
        await scene.turn()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    run(story)


def test_watches_and_futures_in_turn(run: Run) -> None:
    """A connection reads, stands in the queue, and reads on."""

    async def story(scene: Scene) -> None:
        peer, ours = scene.pair()
        watch = await scene.quiet(ours)
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        async def way() -> tuple[bytes, str, bytes]:
            return await received(ours, watch), await future, await received(ours, watch)

        walking = Stepped(way())
        peer.send(b"before")
        await scene.turn()
        peer.send(b"after")
        await scene.turn()
        assert not walking.done
        future.set_result("granted")
        assert (b"before", "granted", b"after") == await walking

    run(story)


def test_a_task_cannot_await_a_watch(run: Run) -> None:
    """It is told so, rather than left to wait for ever."""

    async def story(scene: Scene) -> None:
        watch = await scene.quiet(scene.pair()[1])
        with pytest.raises(RuntimeError, match="bad yield"):
            await watch.ready(soon())

    run(story)
