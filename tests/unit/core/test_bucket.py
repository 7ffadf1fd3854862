"""Buckets: what a source may do how often."""

from rdpbalancer.core.bucket import Buckets

ONE, OTHER, THIRD = (("ts", f"192.0.2.{number}") for number in (1, 2, 3))


def spent(buckets: Buckets, source: tuple[str, str] = ONE, *, now: float, refill_s: float = 10.0) -> bool:
    """Spend one of four."""
    return buckets.spend(source, whole=4, refill_s=refill_s, now=now)


def test_a_bucket_is_spent_and_fills_up_evenly() -> None:
    buckets = Buckets(10)
    assert [True] * 4 + [False] == [spent(buckets, now=0.0) for _ in range(5)]
    assert not spent(buckets, now=2.4)
    assert spent(buckets, now=2.5)
    assert not spent(buckets, now=2.6)


def test_a_bucket_never_holds_more_than_the_whole() -> None:
    buckets = Buckets(10)
    assert spent(buckets, now=0.0)
    assert [True] * 4 + [False] == [spent(buckets, now=1000.0) for _ in range(5)]


def test_without_a_time_it_is_full_again_at_once() -> None:
    buckets = Buckets(10)
    assert all(spent(buckets, now=0.0, refill_s=0.0) for _ in range(20))


def test_sources_do_not_spend_each_other_s() -> None:
    buckets = Buckets(10)
    for _ in range(5):
        spent(buckets, now=0.0)
    assert spent(buckets, OTHER, now=0.0)


def test_the_source_that_has_been_silent_longest_is_forgotten() -> None:
    """Only so many are remembered: a stranger can have many addresses."""
    buckets = Buckets(2)
    for _ in range(4):
        spent(buckets, ONE, now=0.0)
    spent(buckets, OTHER, now=0.0)
    assert not spent(buckets, ONE, now=0.0)  # spoken last
    spent(buckets, THIRD, now=0.0)  # pushes the other one out
    assert 2 == len(buckets)
    assert not spent(buckets, ONE, now=0.0)
    assert [True] * 4 == [spent(buckets, OTHER, now=0.0) for _ in range(4)]
