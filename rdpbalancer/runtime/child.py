"""The entry of child processes: ``python -m rdpbalancer.runtime.child ROLE DESCRIPTOR...``.

Only the supervisor starts these. Signals of a terminal or a service manager reach every process of the
service; children leave them to the supervisor, whose word they get over their line.
"""

import os
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

import setproctitle

from rdpbalancer.runtime.loop import run


def main(arguments: Sequence[str]) -> None:
    """Run a child process to its end."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    role = arguments[0]
    if role == "relay":
        supervisor, router, index = arguments[1:]
        setproctitle.setproctitle(f"rdpbalancer: relay {index}")
        run(_relay(int(router), int(supervisor)))
    elif role == "router":
        supervisor, kept, path = arguments[1:]
        setproctitle.setproctitle("rdpbalancer: router")
        run(_router(int(supervisor), Path(kept), Path(path)))
    else:
        message = f"rdpbalancer.runtime.child: there is no role {role!r}"
        raise SystemExit(message)


async def _relay(router: int, supervisor: int) -> None:
    from rdpbalancer.relay.worker import Relay

    await Relay(_inherited(router), _inherited(supervisor)).run()


async def _router(supervisor: int, kept: Path, path: Path) -> None:
    from rdpbalancer.runtime import active
    from rdpbalancer.runtime.router import Router

    await Router(_inherited(supervisor), active.kept(kept, path, environ=os.environ)).run()


def _inherited(descriptor: int) -> socket.socket:
    os.set_inheritable(descriptor, False)
    sock = socket.socket(fileno=descriptor)
    sock.setblocking(False)
    return sock


if __name__ == "__main__":
    main(sys.argv[1:])
