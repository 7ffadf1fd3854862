"""The outcome of a run as text, as JSON and as a chart."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.chart import Bars, chart
from benchmarks.farm import DIRECT
from benchmarks.figures import Figure, figure
from benchmarks.proxies import PROXIES, REFERENCE
from benchmarks.run import Outcome, Plan
from benchmarks.table import aligned, cell, verdict
from benchmarks.workloads import Measure, Sample, Workload

SATURATED_SHARE = 0.95
_OURS = "rdpbalancer"
_FAILURE_CHARACTERS = 500
_LEGEND = """\
Median of the rounds, ± half the range from lowest to highest, and the ratio to HAProxy in the same round \
(median; lower is better).
* the load generator's core was more than 95 % busy: the figure is as much its own as the proxy's.
`reached a wrong server` and every byte count are checked; a run in which a session failed has no figure."""


def figures(outcome: Outcome, workload: Workload, measure: Measure) -> dict[str, Figure]:
    """Sum one measure of one workload up, by proxy."""
    samples = outcome.samples.get(workload.title, {})
    reference = _values(samples.get(REFERENCE, {}), measure)
    found = {}
    for name, rounds in samples.items():
        values = _values(rounds, measure)
        if values:
            saturated = [rounds[number].load_share > SATURATED_SHARE for number in values]
            found[name] = figure(values, reference if measure.compared else None, saturated)
    return found


def _values(rounds: Mapping[int, Sample], measure: Measure) -> dict[int, float]:
    return {
        number: sample.values[measure.key]
        for number, sample in rounds.items()
        if measure.key in sample.values
    }


def text(plan: Plan, outcome: Outcome, facts: str) -> str:
    """Return everything that the terminal shows."""
    rows = [["", *(PROXIES[name].title for name in plan.proxies), "wanted"]]
    for workload in plan.workloads:
        rows.append([f"**{workload.title}**", *("" for _ in plan.proxies), ""])
        for measure in workload.measures:
            found = figures(outcome, workload, measure)
            cells = [cell(found.get(name), measure, reference=name == REFERENCE) for name in plan.proxies]
            unit = f", {measure.unit}" if measure.unit else ""
            rows.append([f"{measure.title}{unit}", *cells, verdict(found.get(_OURS), measure)])
    notes = [*outcome.notes, *_failures(outcome)]
    return "\n\n".join(
        [
            f"{facts}; {outcome.rounds} rounds",
            aligned(rows),
            _LEGEND,
            "\n".join(f"- {note}" for note in notes),
        ]
    )


def _failures(outcome: Outcome) -> list[str]:
    return [
        f"FAILED: {title}, {name}: {' '.join(why.split())[:_FAILURE_CHARACTERS]}"
        for (title, name), why in outcome.failures.items()
    ]


def document(plan: Plan, outcome: Outcome, facts: str) -> dict[str, Any]:
    """Return everything that was measured, for other programs."""
    return {
        "machine": facts,
        "rounds": outcome.rounds,
        "notes": outcome.notes,
        "failures": _failures(outcome),
        "workloads": [
            {
                "name": workload.name,
                "title": workload.title,
                "measures": [
                    {**measure._asdict(), "figures": _plain(figures(outcome, workload, measure))}
                    for measure in workload.measures
                ],
                "samples": {
                    name: {
                        number: {**sample.values, "load_share": sample.load_share}
                        for number, sample in rounds.items()
                    }
                    for name, rounds in outcome.samples.get(workload.title, {}).items()
                },
            }
            for workload in plan.workloads
        ],
    }


def _plain(found: Mapping[str, Figure]) -> dict[str, dict[str, Any]]:
    return {name: one._asdict() for name, one in found.items()}


def drawing(plan: Plan, outcome: Outcome) -> str:
    """Return the chart of all ratios to HAProxy."""
    shown = [name for name in plan.proxies if name not in {REFERENCE, DIRECT}]
    groups = []
    for workload in plan.workloads:
        for measure in workload.measures:
            found = figures(outcome, workload, measure)
            if measure.compared and any(found[name].ratio for name in shown if name in found):
                groups.append(Bars(f"{_short(workload)}: {measure.title}", _ratios(found, shown)))
    return chart(
        "Ratio to HAProxy (dashed line: 1.0), less is better", [PROXIES[name].title for name in shown], groups
    )


def _ratios(found: Mapping[str, Figure], shown: Sequence[str]) -> tuple[float | None, ...]:
    return tuple(found[name].ratio if name in found else None for name in shown)


def _short(workload: Workload) -> str:
    return workload.title.partition(" (")[0]
