"""What the schedulers keep for any weights and any sequence of arrivals."""

from collections import Counter
from math import gcd
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from rdpbalancer.core.schedule import (
    SCHEDULERS,
    Candidate,
    ScheduleInput,
    least_connections,
    round_robin,
    source_hash,
)
from rdpbalancer.model import ServerId
from tests.unit.core.farms import choice

weights_of_a_farm = st.lists(st.integers(1, 256), min_size=1, max_size=8)
any_weight = st.floats(1e-4, 256)


def farm_of(weights: list[int], loads: Counter[ServerId] | None = None) -> list[Candidate]:
    bare = [choice(f"ts{number}", weight) for number, weight in enumerate(weights)]
    return [Candidate(each.server, each.weight, loads[each.server]) for each in bare] if loads else bare


def turns_of(weights: list[int], turns: int, ask: ScheduleInput) -> list[ServerId]:
    choices = farm_of(weights)
    chosen = [round_robin(choices, ask) for _ in range(turns)]
    return [each.server for each in chosen if each is not None]


@given(weights_of_a_farm, st.integers(0, 300))
def test_round_robin_is_exact_over_a_cycle(weights: list[int], before: int) -> None:
    """After one cycle, wherever it begins, every server has had its weight's share to the session."""
    unit = gcd(*weights)
    ask = ScheduleInput("", Random(0))
    turns_of(weights, before, ask)
    actual = Counter(turns_of(weights, sum(weights) // unit, ask))
    expected = {each.server: weight // unit for each, weight in zip(farm_of(weights), weights, strict=True)}
    assert expected == dict(actual)


@given(weights_of_a_farm)
def test_round_robin_does_not_burst(weights: list[int]) -> None:
    """Sessions in a row are bounded by a server's share, not its weight: of two equal ones, three at most."""
    turns = turns_of(weights, 300, ScheduleInput("", Random(0)))
    for server, weight in zip(farm_of(weights), weights, strict=True):
        others = sum(weights) - weight
        if others:
            bound = harmonic(len(weights)) * sum(weights) / others
            assert bound >= longest_run(turns, server.server)


def longest_run(turns: list[ServerId], server: ServerId) -> int:
    longest = run = 0
    for turn in turns:
        run = run + 1 if turn == server else 0
        longest = max(longest, run)
    return longest


def harmonic(servers: int) -> float:
    """Return 1 + 1/2 + ... + 1/servers."""
    return sum(1 / number for number in range(1, servers + 1))


@given(st.integers(1, 8), st.data())
def test_changed_weights_cause_no_burst(servers: int, data: st.DataObject) -> None:
    """At every moment each server is within a session or two of its due, whatever the weights have been.

    The bound is that of the cup game (each turn one unit is poured in, one taken from the fullest): a server
    is never more than one session ahead nor more than 1/2 + 1/3 + ... + 1/n behind.
    """
    ask = ScheduleInput("", Random(0))
    weights = st.lists(st.integers(1, 256), min_size=servers, max_size=servers)
    for now in data.draw(st.lists(weights, max_size=20)):
        turns_of(now, 7, ask)
        assert all(-1 - 1e-9 <= credit <= harmonic(servers) - 1 + 1e-9 for credit in ask.wheel.values())


@given(weights_of_a_farm, st.integers(0, 500))
def test_least_connections_gives_every_server_its_share(weights: list[int], arrivals: int) -> None:
    """No server gets less than its share, rounded down, and no session would be less crowded elsewhere."""
    loads = Counter[ServerId]()
    for _ in range(arrivals):
        chosen = least_connections(farm_of(weights, loads), ScheduleInput("", Random(0)))
        assert chosen is not None
        loads[chosen.server] += 1
    servers = farm_of(weights, loads)
    for server in servers:
        assert arrivals * server.weight // sum(weights) <= loads[server.server]
    for crowded in servers:
        for other in servers:
            assert loads[crowded.server] * other.weight <= (loads[other.server] + 1) * crowded.weight


@given(st.integers(1, 20), st.lists(st.integers(0, 19), max_size=100), st.integers(1, 200))
def test_least_connections_levels_equal_servers(servers: int, ended: list[int], arrivals: int) -> None:
    """However unlevel sessions' ends left them: arrivals go to the lowest until all are within one."""
    weights = [100] * servers
    loads = Counter({each.server: 5 for each in farm_of(weights)})
    for number in ended:
        server = farm_of(weights)[number % servers].server
        loads[server] = max(0, loads[server] - 1)
    for _ in range(arrivals):
        lowest = min(loads.values())
        chosen = least_connections(farm_of(weights, loads), ScheduleInput("", Random(0)))
        assert chosen is not None
        assert lowest == loads[chosen.server]
        loads[chosen.server] += 1
    if arrivals >= 5 * servers:
        assert 1 >= max(loads.values()) - min(loads.values())


sources = st.lists(st.ip_addresses().map(str), min_size=1, max_size=30, unique=True)


def homes(choices: list[Candidate], of: list[str]) -> dict[str, ServerId]:
    chosen = {source: source_hash(choices, ScheduleInput(source, Random(0))) for source in of}
    return {source: each.server for source, each in chosen.items() if each is not None}


@given(st.lists(any_weight, min_size=2, max_size=8), sources, st.integers(0, 7))
def test_a_server_that_leaves_moves_only_its_own(weights: list[float], of: list[str], leaving: int) -> None:
    """And, read backwards: one that arrives takes users only to itself."""
    choices = [choice(f"ts{number}", weight) for number, weight in enumerate(weights)]
    gone = choices[leaving % len(choices)]
    before = homes(choices, of)
    after = homes([each for each in choices if each is not gone], of)
    assert all(before[source] == after[source] for source in of if before[source] != gone.server)
    assert gone.server not in after.values()


@given(st.lists(any_weight, min_size=2, max_size=8), sources, st.floats(1, 100))
def test_a_raised_weight_moves_users_only_to_that_server(
    weights: list[float], of: list[str], factor: float
) -> None:
    """Raising one weight moves users to that server and between no others."""
    choices = [choice(f"ts{number}", weight) for number, weight in enumerate(weights)]
    heavier = [choice("ts0", weights[0] * factor), *choices[1:]]
    before, after = homes(choices, of), homes(heavier, of)
    assert {source for source in of if before[source] != after[source]} <= {
        source for source in of if after[source] == heavier[0].server
    }


@given(
    st.sampled_from(sorted(SCHEDULERS)),
    st.lists(st.tuples(any_weight, st.integers(0, 10_000)), max_size=10),
    st.integers(),
    st.ip_addresses().map(str),
)
def test_every_scheduler_returns_one_of_the_choices(
    scheduler: str, servers: list[tuple[float, int]], seed: int, source: str
) -> None:
    """Whatever the weights, from a ramp's beginning to the greatest; none only where there is none."""
    choices = [choice(f"ts{number}", weight, load) for number, (weight, load) in enumerate(servers)]
    ask = ScheduleInput(source, Random(seed))
    for _ in range(5):
        chosen = SCHEDULERS[scheduler](choices, ask)
        assert chosen in choices if choices else chosen is None


@given(st.lists(st.integers(0, 100), min_size=2, max_size=8, unique=True), st.integers())
def test_two_random_choices_never_give_the_most_loaded(loads: list[int], seed: int) -> None:
    """Two different servers are drawn, and of these the less loaded is taken."""
    choices = [choice(f"ts{number}", 100, load) for number, load in enumerate(loads)]
    chosen = SCHEDULERS["random-two-choices"](choices, ScheduleInput("", Random(seed)))
    assert chosen is not None
    assert max(loads) > chosen.load
