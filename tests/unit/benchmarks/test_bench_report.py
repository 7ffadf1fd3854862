"""What the comparison shows: table, verdicts, JSON, chart."""

import json
from xml.etree import ElementTree as ET

import pytest

from benchmarks import report
from benchmarks.chart import Bars, chart
from benchmarks.figures import Figure
from benchmarks.run import Outcome, Plan
from benchmarks.table import aligned, cell, number, verdict
from benchmarks.workloads import Measure, Sample, Scale
from benchmarks.workloads.connect import Connect

_SVG = "{http://www.w3.org/2000/svg}"
_COST = Measure("cpu_us", "CPU", "µs", compared=True, target=1.6)
_RATE = Measure("rate", "rate", "1/s", rated=True)


def _figure(
    median: float, *, ratio: float | None = None, saturated: bool = False, range_: float = 0
) -> Figure:
    return Figure(median, median - range_ / 2, median + range_ / 2, ratio, saturated)


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.0, "0"), (3.0, "3"), (0.644, "0.64"), (15.07, "15.1"), (118.4, "118"), (12345.6, "12,346")],
)
def test_numbers_have_three_digits(value: float, expected: str) -> None:
    """More digits than repeat would only look exact."""
    assert expected == number(value)


def test_a_cell_tells_median_spread_and_ratio() -> None:
    """All that is needed to judge a figure stands beside it."""
    shown = cell(_figure(120.0, ratio=1.5, range_=24.0), _COST, reference=False)
    assert shown == "120 ±10% **1.50x**"


def test_the_reference_has_no_ratio_to_itself() -> None:
    """HAProxy's own column shows plain values."""
    assert cell(_figure(80.0, ratio=1.0), _COST, reference=True) == "80"


def test_a_busy_load_generator_marks_rates_only() -> None:
    """What a busy generator spoils is marked; the proxy's CPU time is not spoilt."""
    assert cell(_figure(900.0, saturated=True), _RATE, reference=False) == "900*"
    assert cell(_figure(900.0, saturated=True), _COST, reference=False) == "900"


def test_what_was_not_measured_is_not_shown() -> None:
    """A failed workload has a dash, not a number."""
    assert cell(None, _COST, reference=False) == "-"


@pytest.mark.parametrize(
    ("ratio", "expected"), [(1.6, "≤ 1.60x met"), (1.61, "≤ 1.60x missed"), (None, "≤ 1.60x")]
)
def test_verdict(ratio: float | None, expected: str) -> None:
    """A target is met at its very value; without a ratio nothing is claimed."""
    assert expected == verdict(_figure(1.0, ratio=ratio), _COST)
    assert verdict(_figure(1.0, ratio=ratio), _RATE) == ""


def test_table_is_aligned_and_markdown() -> None:
    """Every line is as long as the others, and the second is Markdown's rule."""
    lines = aligned([["", "HAProxy"], ["CPU per connection", "80"]]).splitlines()
    assert {len(lines[0])} == {len(line) for line in lines}
    assert lines[1].replace("-", "") == "|||"


def _outcome() -> Outcome:
    outcome = Outcome(rounds=2)
    for round_, (theirs, ours) in enumerate([(80.0, 120.0), (100.0, 140.0)], 1):
        outcome.keep(Connect.title, "haproxy", round_, Sample({"cpu_us": theirs, "rate": 9000.0}, 0.99))
        outcome.keep(Connect.title, "rdpbalancer", round_, Sample({"cpu_us": ours, "rate": 6000.0}, 0.5))
    outcome.failures[Connect.title, "nginx"] = "a session failed"
    return outcome


_PLAN = Plan([Connect()], ["haproxy", "nginx", "rdpbalancer"], 2, Scale(1.0), 60.0)


def test_text_shows_figures_failures_and_the_machine() -> None:
    """The one table has a row per measure; a failure is told with its reason, and has no figure."""
    shown = report.text(_PLAN, _outcome(), "2 cores")
    row = next(line for line in shown.splitlines() if line.startswith("| CPU per connection"))
    cells = [part.strip() for part in row.split("|")[1:-1]]
    assert ["CPU per connection, µs", "90 ±11%", "-", "130 ±8% **1.45x**", "≤ 1.60x met"] == cells
    assert "9,000*" in shown
    assert "6,000*" not in shown
    assert "FAILED: connect, 50 clients, nginx: a session failed" in shown
    assert shown.startswith("2 cores; 2 rounds")


def test_json_holds_every_value() -> None:
    """Other programs find each round's values and the summary."""
    told = json.loads(json.dumps(report.document(_PLAN, _outcome(), "2 cores")))
    (workload,) = told["workloads"]
    assert workload["samples"]["rdpbalancer"]["2"] == {"cpu_us": 140.0, "rate": 6000.0, "load_share": 0.5}
    assert pytest.approx(1.45) == workload["measures"][0]["figures"]["rdpbalancer"]["ratio"]
    assert told["failures"] == ["FAILED: connect, 50 clients, nginx: a session failed"]


def test_notes_are_told_once() -> None:
    """Five rounds with the same trouble give one line."""
    outcome = Outcome()
    for round_ in range(5):
        outcome.keep("desktop", "haproxy", round_, Sample({}, notes=["late"]))
    assert outcome.notes == ["desktop, haproxy: late"]


def _bars(text: str) -> list[float]:
    rectangles = ET.fromstring(text).findall(f"{_SVG}rect")  # noqa: S314 - our own text
    return [float(one.attrib["width"]) for one in rectangles if one.attrib.get("height") == "14"]


def test_chart_is_svg_with_bars_in_proportion() -> None:
    """A ratio twice as large has a bar twice as long; what was not measured has none."""
    drawn = chart("a < b", ["ours", "nginx"], [Bars("bulk", (0.6, 1.2)), Bars("connect & more", (None, 0.3))])
    assert [2.0, 0.5] == pytest.approx([_bars(drawn)[1] / _bars(drawn)[0], _bars(drawn)[2] / _bars(drawn)[0]])
    assert "a &lt; b" in drawn
    assert "connect &amp; more" in drawn


def test_chart_of_a_run_shows_compared_measures_only() -> None:
    """Throughput is informative and is not drawn; HAProxy is the line, not a bar."""
    drawn = report.drawing(_PLAN, _outcome())
    assert len(_bars(drawn)) == 1
    assert "connections" not in drawn
