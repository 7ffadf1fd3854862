"""Whatever an agent sends."""

from dataclasses import replace
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from rdpbalancer.core import status
from rdpbalancer.core.farm import MAX_WEIGHT
from rdpbalancer.core.feedback import MAX_LINE_BYTES, AgentReport, AgentState, apply, parse_line
from rdpbalancer.model import Health, Intent
from tests.unit.core.farms import real_server, server_status

WORDS = """
    ready drain maint up down fail stopped stop weight: maxconn: % # , 0 7 100 101 9999999 99999999
"""
words = st.sampled_from(WORDS.split())
lines = st.one_of(
    st.binary(max_size=2 * MAX_LINE_BYTES),
    st.lists(words, max_size=20).map(lambda parts: " ".join(parts).encode()),
    st.lists(words, max_size=20).map(lambda parts: "".join(parts).encode()),
)


@given(lines)
def test_no_line_yields_a_value_out_of_range(line: bytes) -> None:
    report = parse_line(line)
    assert report.percent is None or 0 <= report.percent <= 9_999_999
    assert report.weight is None or 0 <= report.weight <= MAX_WEIGHT
    assert report.max_connections is None or 0 <= report.max_connections <= 9_999_999
    assert report.percent is None or report.weight is None
    assert MAX_LINE_BYTES >= len(report.reason) + sum(map(len, report.ignored))
    assert all(text.replace("\t", " ").isprintable() for text in (report.reason, *report.ignored))


@given(st.lists(lines, max_size=10), st.integers(0, MAX_WEIGHT))
def test_no_row_of_lines_yields_a_weight_out_of_range(said: list[bytes], weight: int) -> None:
    state = AgentState()
    for second, line in enumerate(said):
        state = apply(state, parse_line(line), now=float(second))
    actual = status.base_weight(real_server("ts1", weight=weight), replace(server_status(), agent=state))
    assert 0 <= actual <= MAX_WEIGHT


@given(
    report=st.builds(
        AgentReport,
        percent=st.none() | st.integers(0, 9_999_999),
        max_connections=st.none() | st.integers(0, 9_999_999),
        intent=st.none() | st.sampled_from(Intent),
        health=st.none() | st.sampled_from([Health.UP, Health.DOWN]),
    ),
    separator=st.text(" \t,", min_size=1, max_size=4),
    order=st.randoms(use_true_random=False),
    end=st.sampled_from([b"", b"\r\n", b"\n", b"\0"]),
)
def test_what_is_said_is_understood(report: AgentReport, separator: str, order: Random, end: bytes) -> None:
    """In any order, with any separators."""
    intents = {Intent.ONLINE: "ready", Intent.DRAIN: "drain", Intent.HALT: "maint"}
    said = [
        *([f"{report.percent}%"] if report.percent is not None else []),
        *([f"maxconn:{report.max_connections}"] if report.max_connections is not None else []),
        *([intents[report.intent]] if report.intent else []),
        *([report.health.value] if report.health else []),
    ]
    order.shuffle(said)
    assert report == parse_line(separator.join(said).encode() + end)
