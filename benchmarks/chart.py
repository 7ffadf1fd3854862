"""A bar chart as SVG, written by hand: it needs no library, and a diff of it can be read."""

from collections.abc import Sequence
from html import escape
from typing import Final, NamedTuple

_WIDTH, _LEFT, _RIGHT = 760, 300, 60
_BAR, _GAP, _GROUP = 14, 3, 12
_TOP, _BOTTOM = 64, 16
_COLOURS: Final = ("#2563eb", "#9ca3af", "#d97706", "#7c3aed", "#059669")
_FONT: Final = "font-family='system-ui, sans-serif' font-size='12'"


class Bars(NamedTuple):
    """One group: what was measured, and for each series its ratio to the reference; None: not measured."""

    title: str
    ratios: tuple[float | None, ...]


def chart(title: str, series: Sequence[str], groups: Sequence[Bars]) -> str:
    """Return the SVG text. A line stands at 1.0, the reference; shorter bars are better."""
    largest = max([1.0, *(ratio for group in groups for ratio in group.ratios if ratio is not None)])
    per_unit = (_WIDTH - _LEFT - _RIGHT) / largest
    height = _TOP + _BOTTOM + len(groups) * (len(series) * (_BAR + _GAP) + _GROUP)
    lines = [
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {_WIDTH} {height}' {_FONT} role='img'>",
        f"<title>{escape(title)}</title>",
        f"<rect width='{_WIDTH}' height='{height}' fill='white'/>",
        f"<text x='12' y='22' font-size='14' font-weight='bold'>{escape(title)}</text>",
        *_legend(series),
    ]
    y = _TOP
    for group in groups:
        lines += _bars(group, y, per_unit)
        y += len(series) * (_BAR + _GAP) + _GROUP
    one = _LEFT + per_unit
    lines += [
        f"<path d='M{one:.1f} {_TOP - 6}V{height - _BOTTOM}' stroke='#111827' stroke-dasharray='3 3'/>",
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _legend(series: Sequence[str]) -> list[str]:
    lines, x = [], 12
    for name, colour in zip(series, _COLOURS, strict=False):
        lines += [
            f"<rect x='{x}' y='34' width='12' height='12' fill='{colour}'/>",
            f"<text x='{x + 18}' y='44'>{escape(name)}</text>",
        ]
        x += 40 + 7 * len(name)
    return lines


def _bars(group: Bars, top: int, per_unit: float) -> list[str]:
    middle = top + len(group.ratios) * (_BAR + _GAP) / 2 + 3
    lines = [f"<text x='{_LEFT - 10}' y='{middle:.1f}' text-anchor='end'>{escape(group.title)}</text>"]
    for place, ratio in enumerate(group.ratios):
        if ratio is None:
            continue
        y = top + place * (_BAR + _GAP)
        width = ratio * per_unit
        colour = _COLOURS[place % len(_COLOURS)]
        lines += [
            f"<rect x='{_LEFT}' y='{y}' width='{width:.1f}' height='{_BAR}' fill='{colour}'/>",
            f"<text x='{_LEFT + width + 5:.1f}' y='{y + 11}' font-size='11'>{ratio:.2f}</text>",
        ]
    return lines
