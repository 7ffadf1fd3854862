"""How many file descriptors a process may open, and how many of them strangers may have.

Without a reserve the first to find none left would be whoever matters most: the dial of a user who has been
let in, a health check (whose server would be taken for down), the operator's `status`.
"""

import resource
from typing import Final

# What a process needs beside its connections: the loop, listeners, lines, state and log, and some for a
# scrape and a reload at the same time.
RESERVED: Final = 32
# Connections to the control socket at once: enough for a console, monitors and a few operators. They have
# descriptors of their own in the router, so that neither they nor the users can use up the others'.
CONTROL_CLIENTS: Final = 32
# A check and a feedback agent, both at once.
PER_SERVER: Final = 2
# A limit of "unlimited" is one all the same.
_UNLIMITED: Final = 1_000_000


def limit() -> int:
    """Return how many descriptors this process, and its children, may open (RLIMIT_NOFILE, soft)."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _UNLIMITED if soft == resource.RLIM_INFINITY else soft


def sessions_of_a_relay(limit: int) -> int:
    """Return how many sessions a relay has descriptors for: two each, the client's and the server's."""
    return max(1, (limit - RESERVED) // 2)


def short(newest: int, *, limit: int, half_open: int, servers: int) -> bool:
    """Whether the router lets nobody else in, for now.

    `newest`: the number of the latest descriptor. The kernel gives the lowest free one, so at least that many
    are open. Each half-open connection is owed one more, for its dial.
    """
    return newest + half_open + RESERVED + CONTROL_CLIENTS + PER_SERVER * servers >= limit
