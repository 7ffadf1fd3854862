"""The arithmetic of the comparison."""

import pytest

from benchmarks.figures import Figure, figure, percentile


@pytest.mark.parametrize(
    ("share", "expected"), [(0.0, 1.0), (0.25, 1.0), (0.5, 2.0), (0.51, 3.0), (0.99, 4.0), (1.0, 4.0)]
)
def test_percentile_is_the_value_that_so_many_do_not_exceed(share: float, expected: float) -> None:
    """Nearest rank: a percentile is always a value that was measured."""
    assert expected == percentile([1.0, 2.0, 3.0, 4.0], share)


def test_no_percentile_of_nothing() -> None:
    """A run without a single answer has no latency."""
    with pytest.raises(ValueError, match="no values"):
        percentile([], 0.5)


def test_ratio_is_the_median_of_the_rounds_ratios() -> None:
    """Rounds are compared with themselves: a machine that slows down by half changes no ratio."""
    found = figure({1: 10.0, 2: 30.0, 3: 60.0}, {1: 10.0, 2: 20.0, 3: 40.0}, [False] * 3)
    assert Figure(median=30.0, low=10.0, high=60.0, ratio=1.5, saturated=False) == found


def test_only_rounds_that_both_have_count_for_the_ratio() -> None:
    """A round in which HAProxy failed still counts for the median, not for the ratio."""
    found = figure({1: 10.0, 2: 30.0}, {2: 60.0}, [False] * 2)
    assert (20.0, 0.5) == (found.median, found.ratio)


@pytest.mark.parametrize("reference", [None, {}, {1: 0.0}])
def test_no_reference_no_ratio(reference: dict[int, float] | None) -> None:
    """Without HAProxy, or with nothing measured of it, no ratio is made up."""
    assert figure({1: 10.0}, reference, [False]).ratio is None


@pytest.mark.parametrize(
    ("marks", "expected"), [([True, True, False], True), ([True, False], False), ([False], False)]
)
def test_saturated_if_most_rounds_were(marks: list[bool], expected: bool) -> None:  # noqa: FBT001 - a parameter
    """One busy round out of three does not spoil a figure."""
    rounds = {number: 1.0 for number, _ in enumerate(marks)}
    assert expected == figure(rounds, None, marks).saturated


def test_spread_is_half_of_the_range() -> None:
    """Between 90 and 110 lies 100 ± 10 %."""
    assert pytest.approx(0.1) == figure({1: 90.0, 2: 100.0, 3: 110.0}, None, [False] * 3).spread
    assert figure({1: 0.0}, None, [False]).spread == 0.0
