"""When names are looked up again that could not be resolved."""

import pytest

from rdpbalancer.net.resolve import retry_s


@pytest.mark.parametrize(
    ("failures", "interval_s", "pause_s"),
    [(1, 30.0, 1.0), (2, 30.0, 2.0), (5, 30.0, 16.0), (6, 30.0, 30.0), (10_000, 30.0, 30.0), (1, 0.01, 0.01)],
)
def test_pauses_double_up_to_the_interval(failures: int, interval_s: float, pause_s: float) -> None:
    """A line that was just added to /etc/hosts is found soon; a name that is wrong for days costs little."""
    assert pause_s == retry_s(failures, interval_s=interval_s)
