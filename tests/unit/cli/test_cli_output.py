"""How values are shown to a person."""

from typing import Any

import pytest

from rdpbalancer.cli import output
from rdpbalancer.cli.table import shown


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (-5, "0s"),
        (0, "0s"),
        (0.4, "0s"),
        (59.4, "59s"),
        (59.6, "1m 00s"),
        (125, "2m 05s"),
        (3600, "1h 00m"),
        (86399, "23h 59m"),
        (86400, "1d 0h"),
        (90 * 86400, "90d 0h"),
    ],
)
def test_durations_in_their_two_largest_units(seconds: float, expected: str) -> None:
    """A clock that was set back shows no negative time."""
    assert expected == output.duration_text(seconds)


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (1024**2, "1.0 MiB"),
        (5 * 1024**3, "5.0 GiB"),
        (3 * 1024**4, "3.0 TiB"),
        (4096 * 1024**4, "4096.0 TiB"),
    ],
)
def test_bytes_in_their_unit(count: int, expected: str) -> None:
    """Powers of 1024, by their own names."""
    assert expected == output.bytes_text(count)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "-"),
        ("", "-"),
        (0, "0"),
        (True, "yes"),
        (False, "no"),
        (37.5, "37.5"),
        (100.0, "100"),
        (["a", "b\n"], "a, b\\n"),
        ("Zoë \N{GRINNING FACE}", "Zoë \N{GRINNING FACE}"),
        ("tab\tline\nbell\a", "tab\\tline\\nbell\\x07"),
        ("\udcff", "\\udcff"),
    ],
)
def test_values_stay_within_a_line_and_a_column(value: Any, expected: str) -> None:
    """Whatever strangers call themselves."""
    assert expected == shown(value)


def test_counts_with_their_noun() -> None:
    """One is not many."""
    assert ["0 relays", "1 relay", "2 relays"] == [output.counted(count, "relay") for count in range(3)]
