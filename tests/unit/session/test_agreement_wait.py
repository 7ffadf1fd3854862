"""Waiting for other machines to agree, in a loop of its own."""

import asyncio
from collections.abc import Callable

from rdpbalancer.session.agreement_wait import agreed


class AnswerFixture:
    """An answer that the test gives when it likes."""

    def __init__(self) -> None:
        self.done = False
        self.agreed = False
        self.callbacks: list[Callable[[], None]] = []

    def add_callback(self, callback: Callable[[], None]) -> None:
        """Keep the callback."""
        self.callbacks.append(callback)

    def come(self, *, agreed: bool) -> None:
        """Give the answer."""
        self.done, self.agreed = True, agreed
        for callback in self.callbacks:
            callback()


async def test_an_answer_that_is_there_is_not_waited_for() -> None:
    for expected in (True, False):
        answer = AnswerFixture()
        answer.come(agreed=expected)
        assert expected is await agreed(answer, timeout_s=0)


async def test_an_answer_that_comes_later_is_waited_for() -> None:
    for expected in (True, False):
        answer = AnswerFixture()
        asyncio.get_running_loop().call_soon(lambda: answer.come(agreed=expected))  # noqa: B023 (at once)
        assert expected is await agreed(answer, timeout_s=30)


async def test_without_an_answer_in_time_the_machine_decides_alone() -> None:
    """Whoever keeps the shared bindings is sick; one that comes too late changes nothing."""
    answer = AnswerFixture()
    assert await agreed(answer, timeout_s=0)
    answer.come(agreed=False)
