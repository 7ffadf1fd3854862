"""The schedulers, one by one."""

import random
from collections import Counter

import pytest

from rdpbalancer.core import schedule
from rdpbalancer.core.schedule import (
    SCHEDULERS,
    Candidate,
    ScheduleInput,
    first_available,
    least_connections,
    random_two_choices,
    round_robin,
    source_hash,
)
from rdpbalancer.model import ServerId
from tests.unit.core.farms import Dice, choice, sid


def ask(source: str = "192.0.2.1", seed: int = 1) -> ScheduleInput:
    return ScheduleInput(source, random.Random(seed))


def name(chosen: Candidate | None) -> str | None:
    return chosen.server.name if chosen else None


def test_the_schedulers_have_the_names_of_the_configuration() -> None:
    expected = {
        "weighted-least-connections": least_connections,
        "weighted-round-robin": round_robin,
        "source-hash": source_hash,
        "random-two-choices": random_two_choices,
        "first-available": first_available,
    }
    assert expected == SCHEDULERS


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_without_choices_nothing_is_chosen(scheduler: str) -> None:
    assert SCHEDULERS[scheduler]([], ask()) is None


@pytest.mark.parametrize("weight", [1e-4, 1, 256])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_single_choice_is_taken(scheduler: str, weight: float) -> None:
    only = choice("ts1", weight, load=7)
    assert only is SCHEDULERS[scheduler]([only], ask())


@pytest.mark.parametrize(
    ("choices", "expected"),
    [
        ([choice("a", 100, 3), choice("b", 100, 2)], "b"),
        ([choice("a", 100, 2), choice("b", 100, 2)], "a"),
        ([choice("a", 50, 0), choice("b", 100, 0)], "b"),
        ([choice("a", 100, 1), choice("b", 200, 3)], "b"),  # a tie at (1 + 1)/100 = (3 + 1)/200: the heavier
        ([choice("a", 100, 1), choice("b", 200, 4)], "a"),
        ([choice("a", 0.01, 0), choice("b", 256, 20_000)], "b"),
        ([choice("a", 0.01, 0), choice("b", 256, 25_600)], "a"),
    ],
)
def test_least_connections_weighs_the_session_to_come(choices: list[Candidate], expected: str) -> None:
    assert expected == name(least_connections(choices, ask()))


def test_round_robin_is_smooth() -> None:
    """5:1:1 gives the heavy server five of seven, never all five in a row."""
    choices, wheel = [choice("a", 5), choice("b", 1), choice("c", 1)], ScheduleInput("", Dice(0.5))
    turns = "".join(str(name(round_robin(choices, wheel))) for _ in range(14))
    assert "aabacaaaabacaa" == turns


def test_the_credit_of_a_server_that_is_full_rests() -> None:
    turn = ask()
    both, one = [choice("a"), choice("b")], [choice("b")]
    assert "a" == name(round_robin(both, turn))
    for _ in range(50):
        assert "b" == name(round_robin(one, turn))
    turns = Counter(name(round_robin(both, turn)) for _ in range(10))
    assert Counter(a=5, b=5) == turns


def test_credit_from_heavier_days_does_not_burst() -> None:
    """Agents that turn every weight from 100 to 1 must not send the next hundred users to one server."""
    turn = ask()
    assert "a" == name(round_robin([choice("a", 100), choice("b", 100)], turn))
    turns = [name(round_robin([choice("a", 1), choice("b", 1)], turn)) for _ in range(12)]
    assert 6 == pytest.approx(turns.count("b"), abs=2)


def test_one_source_hashes_to_one_server_in_any_order_of_the_servers() -> None:
    choices = [choice(f"ts{number}") for number in range(10)]
    chosen = source_hash(choices, ask("192.0.2.77"))
    assert chosen == source_hash(list(reversed(choices)), ask("192.0.2.77", seed=2))


def test_the_hash_of_a_source_is_the_same_in_every_version_and_process() -> None:
    """Changing it would move every user of a farm without persistence at an upgrade."""
    choices = [choice("ts1"), choice("ts2"), choice("ts3")]
    sources = ("192.0.2.1", "192.0.2.2", "192.0.2.3", "2001:db8::1", "2001:db8::2")
    chosen = [name(source_hash(choices, ask(source))) for source in sources]
    assert ["ts3", "ts3", "ts2", "ts1", "ts1"] == chosen


@pytest.mark.parametrize("digest", [b"\x00" * 8, b"\x80" + b"\x00" * 7, b"\xff" * 8])
def test_no_digest_is_without_a_logarithm(digest: bytes) -> None:
    """The highest must not round to 1, whose logarithm is nothing to divide by."""
    assert 0 < schedule._between_0_and_1(digest) < 1


def test_source_hash_shares_by_weight() -> None:
    choices = [choice("a", 50), choice("b", 100), choice("c", 150)]
    turns = Counter(name(source_hash(choices, ask(f"10.1.{i >> 8}.{i & 255}"))) for i in range(6000))
    assert pytest.approx({"a": 1000, "b": 2000, "c": 3000}, rel=0.1) == dict(turns)


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ((0.0, 0.0), "a"),  # a, then b: a is less loaded
        ((0.4, 0.9), "b"),  # b, then c
        ((0.9, 0.9), "b"),  # c, then b
        ((0.9, 0.0), "a"),  # c, then a
        ((1.0, 1.0), "b"),  # rounding past the end gives the last: c, then b
    ],
)
def test_random_two_choices_takes_the_less_loaded_of_two(numbers: tuple[float, ...], expected: str) -> None:
    choices = [choice("a", load=1), choice("b", load=2), choice("c", load=3)]
    assert expected == name(random_two_choices(choices, ScheduleInput("", Dice(*numbers))))


def test_random_two_choices_balances_by_weight() -> None:
    weights = {"a": 50, "b": 100, "c": 150}
    turn, loads = ask(seed=42), Counter[ServerId]()
    for _ in range(3000):
        choices = [choice(each, weight, loads[sid(each)]) for each, weight in weights.items()]
        chosen = random_two_choices(choices, turn)
        assert chosen is not None
        loads[chosen.server] += 1
    actual = {server.name: load for server, load in loads.items()}
    assert pytest.approx({"a": 500, "b": 1000, "c": 1500}, rel=0.05) == actual


def test_first_available_fills_the_first() -> None:
    choices = [choice("a", 1, load=99), choice("b", 256, load=0)]
    assert "a" == name(first_available(choices, ask()))


def test_ties_take_turns() -> None:
    """Users who come one after the other, each leaving a desktop behind, are spread all the same."""
    ask = ScheduleInput("192.0.2.1", random.Random(0))
    servers = [choice("ts1"), choice("ts2"), choice("ts3")]
    chosen = [least_connections(servers, ask) for _ in range(7)]
    assert ["ts1", "ts2", "ts3", "ts1", "ts2", "ts3", "ts1"] == [each.server.name for each in chosen if each]
