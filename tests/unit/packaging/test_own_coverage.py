"""Which test files count as a module's own."""

from pathlib import Path

import pytest

from tests.own_coverage.modules import LESS, least, modules, own_tests

_FILES = (
    "tests/unit/core/test_route.py",
    "tests/unit/core/test_route_tokens.py",
    "tests/unit/core/test_router.py",
    "tests/unit/session/test_route.py",
    "tests/unit/cli/test_cli_table.py",
    "tests/unit/runtime/router/test_reload.py",
    "tests/contract/test_store.py",
)


@pytest.mark.parametrize(
    ("module", "own"),
    [
        ("core.route", ["tests/unit/core/test_route.py", "tests/unit/core/test_route_tokens.py"]),
        ("cli.table", ["tests/unit/cli/test_cli_table.py"]),
        ("runtime.router.reload", ["tests/unit/runtime/router/test_reload.py"]),
        ("stores.memory", ["tests/contract/test_store.py"]),
        ("core.farm", []),
    ],
)
def test_own_files_are_those_of_the_module_s_name_in_its_room(module: str, own: list[str]) -> None:
    assert own == own_tests(module, _FILES)


def test_every_module_with_a_lower_bound_exists_and_says_why() -> None:
    names = modules(Path(__file__).parents[3] / "rdpbalancer")
    for module, (percent, reason) in LESS.items():
        assert module in names
        assert percent < 100
        assert reason


def test_decisions_and_parsers_are_to_be_covered_whole() -> None:
    assert least("core.route") == 100
    assert least("wire.request") == 100
    assert least("net.poller") == 90
