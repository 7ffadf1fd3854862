"""Logging is the process's own: every test ends without any."""

import io
from collections.abc import Iterator

import pytest

from rdpbalancer.telemetry import logs
from rdpbalancer.telemetry.lean_structlog import structlog


@pytest.fixture(autouse=True)
def unconfigured() -> Iterator[None]:
    """Forget what a test has configured."""
    yield
    logs.configure(log_format="json", level="error", process="tests", stream=io.StringIO())
    structlog.reset_defaults()
