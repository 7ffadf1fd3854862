"""Which signals end a process of the service."""

import signal

from rdpbalancer.runtime.signals import HARMLESS

# What ends a process on purpose, what says that it is broken, and what ends none by default.
_MEANT = {"HUP", "INT", "TERM", "QUIT", "KILL"}
_BROKEN = {"ILL", "TRAP", "ABRT", "BUS", "FPE", "SEGV", "SYS"}
_HARMLESS_BY_DEFAULT = {"CHLD", "CONT", "URG", "WINCH"}
_STOPPING = {"STOP", "TSTP", "TTIN", "TTOU"}


def test_every_other_signal_is_ignored() -> None:
    """signal(7): whatever else ends a process by default, real-time signals included, ends none of ours."""
    kept = {signal.Signals[f"SIG{name}"] for name in _MEANT | _BROKEN | _HARMLESS_BY_DEFAULT | _STOPPING}
    assert signal.valid_signals() - kept == set(HARMLESS)
