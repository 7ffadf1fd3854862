"""The results as a table that reads well on a terminal and is a Markdown table at the same time."""

from collections.abc import Mapping, Sequence

from benchmarks.figures import Figure
from benchmarks.workloads import Measure

Row = tuple[Measure, Mapping[str, Figure], str | None]


def number(value: float) -> str:
    """Return a value with three significant digits, as far as it has a fraction."""
    if abs(value) >= 100 or value == round(value):
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def cell(figure: Figure | None, measure: Measure, *, reference: bool) -> str:
    """Return one cell: median, spread, ratio, and a mark if the load generator was the limit."""
    if figure is None:
        return "-"
    parts = [number(figure.median) + ("*" if measure.rated and figure.saturated else "")]
    if figure.high != figure.low:
        parts.append(f"±{figure.spread:.0%}")
    if measure.compared and figure.ratio is not None and not reference:
        parts.append(f"**{figure.ratio:.2f}x**")
    return " ".join(parts)


def verdict(figure: Figure | None, measure: Measure) -> str:
    """Say what ratio is wanted of a measure and whether it is reached."""
    if measure.target is None or not measure.compared:
        return ""
    met = (
        ""
        if figure is None or figure.ratio is None
        else ("met" if figure.ratio <= measure.target else "missed")
    )
    return f"≤ {measure.target:.2f}x {met}".rstrip()


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Return rows of equal length, the first of them the heading, as an aligned Markdown table."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "| " + " | ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])
