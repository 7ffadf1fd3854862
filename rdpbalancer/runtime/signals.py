"""Signals that end a process by default and must not end ours.

Recipes for other servers send them (USR1 of nginx, to have the log opened anew), and so does a mistyped kill.
"""

import signal
from typing import Final

# Everything whose default is to end the process, but what means to (TERM, INT, QUIT, KILL), what says that
# the process itself is broken (SEGV, ABRT ...), and HUP. Real-time signals end a process, too.
HARMLESS: Final = (
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGALRM,
    signal.SIGSTKFLT,
    signal.SIGVTALRM,
    signal.SIGPROF,
    signal.SIGPIPE,
    signal.SIGIO,
    signal.SIGPWR,
    signal.SIGXCPU,
    signal.SIGXFSZ,
    *(number for number in signal.valid_signals() if signal.SIGRTMIN <= number <= signal.SIGRTMAX),
)


def ignore_harmless() -> None:
    """Ignore them in this process, and in those that it starts."""
    for number in HARMLESS:
        signal.signal(number, signal.SIG_IGN)
