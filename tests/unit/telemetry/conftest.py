"""Logging is the process's own: every test begins and ends without any."""

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


@pytest.fixture
def log() -> io.StringIO:
    """Log everything as JSON, and return where."""
    stream = io.StringIO()
    logs.configure(log_format="json", level="debug", process="router", stream=stream)
    return stream
