"""The feedback agent's words."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from rdpbalancer.core.feedback import MAX_LINE_BYTES, AgentReport, AgentState, apply, not_heard, parse_line
from rdpbalancer.model import Health, Intent


@pytest.mark.parametrize(
    ("line", "report"),
    [
        (b"75%", AgentReport(percent=75)),
        (b"0%", AgentReport(percent=0)),
        (b"250%", AgentReport(percent=250)),
        (b"75", AgentReport(percent=75)),
        (b"0", AgentReport(percent=0)),
        (b"100", AgentReport(percent=100)),
        (b"weight:50%", AgentReport(percent=50)),
        (b"weight:50", AgentReport(weight=50)),
        (b"weight:0", AgentReport(weight=0)),
        (b"weight:256", AgentReport(weight=256)),
        (b"maxconn:30", AgentReport(max_connections=30)),
        (b"maxconn:0", AgentReport(max_connections=0)),
        (b"maxconn:9999999", AgentReport(max_connections=9_999_999)),
        (b"ready", AgentReport(intent=Intent.ONLINE)),
        (b"drain", AgentReport(intent=Intent.DRAIN)),
        (b"maint", AgentReport(intent=Intent.HALT)),
        (b"up", AgentReport(health=Health.UP)),
        (b"down", AgentReport(health=Health.DOWN)),
        (b"fail", AgentReport(health=Health.DOWN)),
        (b"stopped", AgentReport(health=Health.DOWN)),
        (b"stop", AgentReport(health=Health.DOWN)),
        (b"", AgentReport()),
        (b" \t,, ,", AgentReport()),
    ],
)
@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n", b"\r", b"\0", b"\ndown 0%"])
@pytest.mark.parametrize("case", [bytes.lower, bytes.upper, bytes.title])
def test_every_word_alone(
    line: bytes, report: AgentReport, end: bytes, case: Callable[[bytes], bytes]
) -> None:
    """Each word of the grammar means one thing, in any case, and the first line is all that counts."""
    assert report == parse_line(case(line) + end)


@pytest.mark.parametrize(
    "line",
    [
        b"up ready 75% maxconn:30",
        b"75%,maxconn:30,ready,up",
        b"maxconn:30\t\tUP  Ready,75%",
        b" , ready\tup,MAXCONN:30 , weight:75% ,\r\n",
    ],
)
def test_words_come_in_any_order_with_any_separators(line: bytes) -> None:
    expected = AgentReport(percent=75, max_connections=30, intent=Intent.ONLINE, health=Health.UP)
    assert expected == parse_line(line)


@pytest.mark.parametrize(
    ("line", "report"),
    [
        (b"down#disk full", AgentReport(health=Health.DOWN, reason="disk full")),
        (b"DOWN#Disk, Full ", AgentReport(health=Health.DOWN, reason="Disk, Full")),
        (b"75% fail #why", AgentReport(percent=75, health=Health.DOWN, reason="why")),
        (b"stopped#up ready 100%", AgentReport(health=Health.DOWN, reason="up ready 100%")),
        (b"up#", AgentReport(health=Health.UP)),
        (b"maint#a#b", AgentReport(intent=Intent.HALT, reason="a#b")),
    ],
)
def test_a_reason_runs_to_the_end_of_the_line(line: bytes, report: AgentReport) -> None:
    """Words in a reason are text, not orders."""
    assert report == parse_line(line)


def test_a_reason_cannot_paint_on_a_terminal() -> None:
    """It is shown to operators and written to logs: control characters and foreign bytes do not pass."""
    assert "?[31mred?? ok?" == parse_line(b"down#\x1b[31mred\xc3\xa4 ok\x7f").reason


@pytest.mark.parametrize(
    "word",
    [
        b"101", b"-5", b"-5%", b"+5%", b"7.5%", b"5%%", b"%", b":5", b":5%", b"weight:", b"weight:%",
        b"weight:257", b"weight:-1", b"maxconn:", b"maxconn:50%", b"maxconn:10000000", b"12345678%",
        b"weight::5", b"ready:5", b"percent:5", b"downed", b"http/1.1", b"0x10", b"\xb2%", b"\xff",
        b"ready\x0bup",
    ],
)  # fmt: skip
def test_what_is_not_of_the_grammar_is_ignored_and_listed(word: bytes) -> None:
    report = parse_line(word + b" 50%")
    assert 50 == report.percent
    assert 1 == len(report.ignored)
    assert AgentReport(percent=50) == replace(report, ignored=())


@pytest.mark.parametrize(
    ("line", "percent", "weight"),
    [(b"50% weight:20", None, 20), (b"weight:20 50%", 50, None), (b"10% 20%", 20, None)],
)
def test_of_two_weights_the_last_counts(line: bytes, percent: int | None, weight: int | None) -> None:
    report = parse_line(line)
    assert (percent, weight) == (report.percent, report.weight)


def test_a_word_that_was_cut_is_not_believed() -> None:
    """`maxconn:1000` cut at the bound would be `maxconn:1`, and turn a farm's users away."""
    start = b"90% " + b" " * (MAX_LINE_BYTES - 4 - len(b"maxconn:1"))
    assert AgentReport(percent=90, ignored=("maxconn:1",)) == parse_line(start + b"maxconn:1000\n")


def test_a_reason_may_fill_the_line() -> None:
    report = parse_line(b"maxconn:30 down#" + b"x" * MAX_LINE_BYTES)
    assert (30, Health.DOWN, ()) == (report.max_connections, report.health, report.ignored)
    assert MAX_LINE_BYTES - len("maxconn:30 down#") == len(report.reason)


def test_blanks_may_fill_the_line() -> None:
    assert AgentReport() == parse_line(b" " * (MAX_LINE_BYTES + 5) + b"down")


HEARD = AgentState(
    percent=30, max_connections=20, intent=Intent.DRAIN, health=Health.DOWN, reason="patching", heard_at=5.0
)


@pytest.mark.parametrize(
    ("line", "changed"),
    [
        (b"", {}),
        (b"nonsense", {}),
        (b"60%", {"percent": 60}),
        (b"60", {"percent": 60}),
        (b"weight:7", {"percent": 100, "weight": 7}),
        (b"maxconn:9", {"max_connections": 9}),
        (b"maxconn:0", {"max_connections": 0}),
        (b"ready", {"intent": Intent.ONLINE, "reason": ""}),
        (b"maint", {"intent": Intent.HALT, "reason": ""}),
        (b"up", {"health": Health.UP, "reason": ""}),
        (b"down#again", {"reason": "again"}),
        (b"50% up ready", {"percent": 50, "health": Health.UP, "intent": Intent.ONLINE, "reason": ""}),
    ],
)
def test_what_a_line_does_not_mention_stays(line: bytes, changed: dict[str, Any]) -> None:
    """A drain latches until the agent says `ready`, a down until it says `up`."""
    assert replace(HEARD, heard_at=9.0, **changed) == apply(HEARD, parse_line(line), now=9.0)


def test_a_percentage_takes_the_place_of_an_absolute_weight() -> None:
    state = apply(AgentState(weight=7), AgentReport(percent=50), now=1.0)
    assert AgentState(percent=50, weight=None, heard_at=1.0) == state


def test_an_answer_forgets_failures() -> None:
    assert 0 == apply(AgentState(failures=4), AgentReport(), now=1.0).failures


def test_a_failed_question_changes_nothing_but_the_count() -> None:
    assert replace(HEARD, failures=1) == not_heard(HEARD, now=65.0, stale_after_s=60)


def test_after_a_long_silence_the_configured_weight_holds_again() -> None:
    """The weight and the limit are measurements and age; a drain or down is a wish, and stays."""
    state = not_heard(replace(HEARD, weight=3), now=65.1, stale_after_s=60)
    assert replace(HEARD, percent=100, max_connections=None, failures=1, stale=True) == state
    assert not apply(state, parse_line(b"50%"), now=70.0).stale


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"50%", "agent: online"),
        (b"down", "agent: down"),
        (b"maint", "agent: halt"),
        (b"drain fail #disk full", "agent: drain, down (disk full)"),
    ],
)
def test_the_agents_word_in_words(line: bytes, expected: str) -> None:
    """For tables and logs; never empty."""
    assert expected == apply(AgentState(), parse_line(line), now=0.0).said


def test_an_agent_that_never_answered_has_nothing_to_fall_back_from() -> None:
    state = not_heard(not_heard(AgentState(), now=1.0, stale_after_s=60), now=1000.0, stale_after_s=60)
    assert AgentState(failures=2) == state
