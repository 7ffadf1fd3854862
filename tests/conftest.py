"""What holds for every test."""

import signal

import pytest


def pytest_configure() -> None:
    """Let SIGINT count, here and in what the tests start.

    A shell's background job, as some continuous integrations run theirs, ignores it, and so do its children.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep each file's tests in one process, for they share fixtures; and all real desktops in one.

    With several processes (pytest-xdist) tests that wait leave the processor to others. Real X servers and
    session managers share displays and users of this machine, and come one after the other.
    """
    for item in items:
        group = "e2e" if item.get_closest_marker("e2e") else str(item.path)
        item.add_marker(pytest.mark.xdist_group(group))
