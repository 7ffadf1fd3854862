"""The feedback agent's words: one line of text to what it changes.

The grammar is that of HAProxy's agent-check and of the Loadbalancer.org agent together, so that either agent
can stay where it is installed.
"""

import re
from dataclasses import dataclass, replace

from rdpbalancer.core.farm import MAX_WEIGHT
from rdpbalancer.model import Health, Intent

# An agent's line is a handful of words. What a real server may make us read is bounded all the same.
MAX_LINE_BYTES = 512

# A maxconn beyond this means "no limit" in practice; more digits are not a number anybody measured.
_MAX_DIGITS = 7

_LINE_END = re.compile(rb"[\r\n\0]")
_CONTROL = re.compile(rb"[^\t\x20-\x7e]")
_SEPARATORS = re.compile(r"[ \t,]+")
_INTENTS = {"ready": Intent.ONLINE, "drain": Intent.DRAIN, "maint": Intent.HALT}
_HEALTHS = {
    "up": Health.UP,
    "down": Health.DOWN,
    "fail": Health.DOWN,
    "stopped": Health.DOWN,
    "stop": Health.DOWN,
}


@dataclass(frozen=True, slots=True)
class AgentReport:
    """One line, understood. None: not mentioned. `ignored`: the words that are not of the grammar."""

    percent: int | None = None
    weight: int | None = None
    max_connections: int | None = None
    intent: Intent | None = None
    health: Health | None = None
    reason: str = ""
    ignored: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AgentState:
    """What the agent wants of its server, as the sum of its lines.

    `percent` of the configured weight, or the absolute `weight`, whichever was said last; `heard_at`
    (monotonic) None: never heard. `stale`: silent for so long that its weight was given up; what `percent`
    says then is nobody's word. Kept apart from the operator's state: neither takes back the other's word.
    """

    percent: int = 100
    weight: int | None = None
    max_connections: int | None = None
    intent: Intent = Intent.ONLINE
    health: Health = Health.UP
    reason: str = ""
    heard_at: float | None = None
    failures: int = 0
    stale: bool = False

    @property
    def said(self) -> str:
        """What the agent wants beside a weight, in words: `agent: drain (updates tonight)`."""
        words = [] if self.intent is Intent.ONLINE else [self.intent.value]
        words += ["down"] if self.health is Health.DOWN else []
        reason = f" ({self.reason})" if self.reason else ""
        return f"agent: {', '.join(words) or self.intent.value}{reason}"


def parse_line(data: bytes) -> AgentReport:
    """Understand the first line of `data` (it ends at CR, LF, NUL or the end).

    Words are separated by spaces, tabs or commas, in any order and case: ``N%`` and ``weight:N%`` (of the
    configured weight), ``N`` (idle percentage, 0-100), ``weight:N``, ``maxconn:N``, ``ready``, ``drain``,
    ``maint``, and ``up``, ``down``, ``fail``, ``stopped``, ``stop``, each optionally with ``#reason``, which
    runs to the end of the line. Words that are not of the grammar are ignored and listed. So is the last
    word of a line that fills `MAX_LINE_BYTES`: it may have been cut, and half a number is another number.
    """
    line = _printable(_LINE_END.split(data[:MAX_LINE_BYTES], maxsplit=1)[0])
    words_text, _, reason = line.partition("#")
    report = AgentReport(reason=reason.strip())
    words = [word for word in _SEPARATORS.split(words_text) if word]
    cut = words[-1:] if len(words_text) == MAX_LINE_BYTES else []
    for word in words[: len(words) - len(cut)]:
        report = _add_word(report, word.lower())
    return replace(report, ignored=(*report.ignored, *cut))


def _printable(raw: bytes) -> str:
    """Return the line as text without control characters but the tab: its words reach terminals and logs."""
    return _CONTROL.sub(b"?", raw).decode("ascii")


def _add_word(report: AgentReport, word: str) -> AgentReport:
    if word in _INTENTS:
        return replace(report, intent=_INTENTS[word])
    if word in _HEALTHS:
        return replace(report, health=_HEALTHS[word])
    name, colon, value = word.rpartition(":")
    number = _number(value.removesuffix("%"))
    if number is None or name not in ("", "weight", "maxconn") or (colon and not name):
        return replace(report, ignored=(*report.ignored, word))
    return _add_number(report, word, name, number, percent=value.endswith("%"))


def _add_number(report: AgentReport, word: str, name: str, number: int, *, percent: bool) -> AgentReport:
    if percent and name != "maxconn":
        # More than 100 % is the agent's way to ask for more than its share; the weight's own bound holds.
        return replace(report, percent=number, weight=None)
    if name == "maxconn" and not percent:
        return replace(report, max_connections=number)
    if name == "weight" and number <= MAX_WEIGHT:
        return replace(report, weight=number, percent=None)
    if not name and number <= 100:
        return replace(report, percent=number, weight=None)
    return replace(report, ignored=(*report.ignored, word))


def _number(digits: str) -> int | None:
    if 0 < len(digits) <= _MAX_DIGITS and digits.isascii() and digits.isdigit():
        return int(digits)
    return None


def apply(state: AgentState, report: AgentReport, *, now: float) -> AgentState:
    """Return the agent's state after `report`. What the line does not mention stays as it is."""
    percent, weight = state.percent, state.weight
    if report.percent is not None:
        percent, weight = report.percent, None
    elif report.weight is not None:
        percent, weight = 100, report.weight
    return AgentState(
        percent=percent,
        weight=weight,
        max_connections=state.max_connections if report.max_connections is None else report.max_connections,
        intent=report.intent or state.intent,
        health=report.health or state.health,
        reason=report.reason or ("" if report.health or report.intent else state.reason),
        heard_at=now,
        failures=0,
    )


def not_heard(state: AgentState, *, now: float, stale_after_s: float) -> AgentState:
    """Return the agent's state after a failed question.

    One failure changes nothing. After `stale_after_s` without an answer the weight is the configured one
    again: better an even share than one measured long ago. A drain or down the agent asked for stays: only
    the agent, or the operator by removing the agent, takes that back.
    """
    stale = state.heard_at is not None and now - state.heard_at > stale_after_s
    if stale:
        failures = state.failures + 1
        return replace(state, percent=100, weight=None, max_connections=None, failures=failures, stale=True)
    return replace(state, failures=state.failures + 1)
