"""Fixtures of the end-to-end tests, and the rule that CI skips none of them."""

import os
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.desktop import User
from tests.support.balancer import Balancer
from tests.support.processes import Processes

REQUIRED = os.environ.get("RDPBALANCER_REQUIRE_E2E") == "1"

StartBalancer = Callable[[Sequence[Mapping[str, Any]]], Balancer]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With RDPBALANCER_REQUIRE_E2E=1 a skipped end-to-end test is a failed one: CI must have the programs."""
    report = yield
    if REQUIRED and report.skipped and not hasattr(report, "wasxfail") and item.get_closest_marker("e2e"):
        report.outcome = "failed"
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.longrepr = f"skipped, and RDPBALANCER_REQUIRE_E2E=1 allows no skip: {reason}"
    return report


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    """The test's real processes; stopped at its end, which fails if one left children behind."""
    with Processes(tmp_path) as started:
        yield started


@pytest.fixture
def balancer(tmp_path: Path) -> Iterator[StartBalancer]:
    """Start `rdpbalancer run` with the given virtual services; stopped at the test's end."""
    started: list[Balancer] = []

    def start(services: Sequence[Mapping[str, Any]]) -> Balancer:
        folder = tmp_path / f"b{len(started)}"
        folder.mkdir()
        made = Balancer(folder, services)
        started.append(made)
        made.start()
        return made

    yield start
    for made in reversed(started):
        made.stop()


@pytest.fixture
def new_user() -> Iterator[Callable[[str], User]]:
    """Add real users to this machine; removed at the test's end, after all that they ran has ended."""
    added: list[User] = []

    def add(name: str) -> User:
        added.append(User(name))
        return added[-1]

    yield add
    for user in added:
        user.remove()
