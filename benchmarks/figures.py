"""Medians, percentiles, spreads and ratios of a few repeated measurements."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Figure(NamedTuple):
    """One measure of one proxy over all rounds.

    `ratio` is the median over the rounds of its value to that of the reference in the same round; None: it
    has none. `saturated`: the load generator was at its limit in most rounds, so the value is a lower bound
    of what the proxy can do, or tells of the generator as much as of the proxy.
    """

    median: float
    low: float
    high: float
    ratio: float | None
    saturated: bool

    @property
    def spread(self) -> float:
        """Half of the range between the lowest and the highest, relative to the median."""
        return (self.high - self.low) / 2 / self.median if self.median else 0.0


def percentile(ordered: Sequence[float], share: float) -> float:
    """Return the value that `share` (0 to 1) of the sorted values do not exceed (nearest rank)."""
    if not ordered:
        raise ValueError("no values")
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def figure(
    rounds: Mapping[int, float], reference: Mapping[int, float] | None, saturated: Sequence[bool]
) -> Figure:
    """Sum up one measure. `rounds` and `reference` are values by the round's number.

    Only rounds that both have count for the ratio: the machine may have been another one a minute later.
    """
    values = list(rounds.values())
    ratios = [
        value / reference[number] for number, value in rounds.items() if reference and reference.get(number)
    ]
    return Figure(
        median=statistics.median(values),
        low=min(values),
        high=max(values),
        ratio=statistics.median(ratios) if ratios else None,
        saturated=sum(saturated) * 2 > len(saturated),
    )
