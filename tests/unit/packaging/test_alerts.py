"""contrib/prometheus/alerts.yml against the registry, its own tests and the page that explains it.

That the rules mean what they should is for `promtool test rules`: tests/e2e/test_monitoring.py.
"""

import re
from typing import Any, Final

import pytest
from ruamel.yaml import YAML

from rdpbalancer.core.farm import Farm
from rdpbalancer.telemetry.metrics import Metrics, StateSnapshot
from tests.unit.core.farms import SERVICE, real_server, virtual_service
from tests.unit.packaging.pages import DOCS, REPOSITORY, codes, rows, section
from tests.unit.packaging.test_metrics_page import registered

_FOLDER: Final = REPOSITORY / "contrib" / "prometheus"
_PAGE: Final = DOCS / "how-to" / "monitoring.md"
# What Prometheus adds to every series of a scrape.
_OF_A_SCRAPE: Final = {"instance", "job"}
_METRIC: Final = re.compile(r"\brdpbalancer_[a-z0-9_]+\b")


def _read(name: str) -> Any:
    return YAML(typ="safe", pure=True).load((_FOLDER / name).read_text(encoding="utf-8"))


RULES: Final = [rule for group in _read("alerts.yml")["groups"] for rule in group["rules"]]


def labels_used(expression: str) -> set[str]:
    """Return the labels that an expression matches, or groups and joins by."""
    matched = re.findall(r"[{,]\s*([a-z_]+)\s*=?[=~!]", expression)
    joined = re.findall(r"(?:by|on)\s*\(([^)]*)\)", expression)
    return {*matched, *(label.strip() for labels in joined for label in labels.split(","))}


def series() -> dict[str, frozenset[str]]:
    """Return the labels of every series by its name, those of histograms included."""
    found: dict[str, frozenset[str]] = {"up": frozenset()}
    for name, (kind, labels) in registered().items():
        parts = ("_bucket", "_count", "_sum") if kind == "histogram" else ("",)
        for part in parts:
            found[name + part] = labels | {"le"} if part == "_bucket" else labels
    return found


def test_labels_are_found() -> None:
    """The test below sees what an expression asks for."""
    expression = 'sum by (a, b) (x{c="1", d=~"e.*"} * on (f) y{g!="h"})'
    assert {"a", "b", "c", "d", "f", "g"} == labels_used(expression)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_asks_for_what_there_is(rule: dict[str, Any]) -> None:
    """Every metric is exposed, with the labels that the rule matches, joins and tells of."""
    known = series()
    names = _METRIC.findall(rule["expr"]) or ["up"]
    assert set() == set(names) - set(known)
    have = _OF_A_SCRAPE.union(*(known[name] for name in names))
    told = set(re.findall(r"\$labels\.([a-z_]+)", rule["annotations"]["summary"]))
    assert set() == (labels_used(rule["expr"]) | told) - have


def test_every_alert_is_explained() -> None:
    """In the page's order, with its severity; none is left there that is gone."""
    told = [(codes(row[0])[0], row[1]) for row in rows(section(_PAGE, "## Alerts"))]
    assert [(rule["alert"], rule["labels"]["severity"]) for rule in RULES] != []
    assert sorted((rule["alert"], rule["labels"]["severity"]) for rule in RULES) == sorted(told)


def test_every_alert_is_tested_to_fire() -> None:
    """A rule without a test may never fire."""
    tests = [case for test in _read("alerts_test.yml")["tests"] for case in test["alert_rule_test"]]
    firing = {case["alertname"] for case in tests if case.get("exp_alerts")}
    assert {rule["alert"] for rule in RULES} == firing


def _increases() -> list[tuple[str, str]]:
    """Return each counter that an alert wants to see grow, with the pattern of the label that is matched."""
    found = []
    for rule in RULES:
        for name, matchers in re.findall(r"increase\(\s*(rdpbalancer_[a-z_]+)\{?([^}\[]*)", rule["expr"]):
            pattern = re.search(r'=~?"([^"]*)"', matchers)
            found += [(name, word) for word in (pattern[1].split("|") if pattern else [""])]
    return found


@pytest.mark.parametrize(("counter", "word"), _increases())
def test_the_first_event_of_what_is_alerted_on_is_an_increase(counter: str, word: str) -> None:
    """`increase()` sees nothing in a series that appears with its first event: it has to be there with 0."""
    metrics = Metrics()
    metrics.observe_state(lambda: StateSnapshot(evictions={SERVICE: 0}))
    metrics.prepare(Farm({SERVICE: virtual_service(real_server("ts1"))}))
    words = [
        set(sample.labels.values())
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.name == counter
    ]
    assert any(not word or any(re.fullmatch(word, value) for value in values) for values in words)
