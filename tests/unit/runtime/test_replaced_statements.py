"""What the fault tests replace in a copy of the package stands in it, once: the fast tests notice if not."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import rdpbalancer
from tests.faults.balancer import test_reload_killed
from tests.faults.upgrade import test_upgrade_refused, test_upgrade_reverted


def _statements() -> Iterator[tuple[str, str]]:
    for statement, _ in test_reload_killed._STEPS.values():
        yield "runtime/reload", statement
    for module, old, _, _ in test_upgrade_refused._BROKEN.values():
        yield module, old
    for (module, old, _), _ in test_upgrade_reverted._BROKEN.values():
        yield module, old


@pytest.mark.parametrize(("module", "statement"), list(_statements()))
def test_a_statement_that_is_replaced_is_there(module: str, statement: str) -> None:
    """Whoever rewrites one is told at once, not by a fault test minutes later."""
    text = (Path(rdpbalancer.__file__).parent / f"{module}.py").read_text(encoding="utf-8")
    assert 1 == text.count(statement)
    assert re.search(rf"(?m)^ *{re.escape(statement.lstrip())}", text), "it is a part of a longer one"
