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
    elif role == "preflight":
        _preflight(Path(arguments[1]), Path(arguments[2]))
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


def _preflight(kept: Path, path: Path) -> None:
    """Show that this code starts: everything can be imported, and the configuration in use be read."""
    import msgspec

    from rdpbalancer.relay import worker
    from rdpbalancer.runtime import active, router, supervisor, upgrade
    from rdpbalancer.settings.build import farm_of

    farm_of(active.kept(kept, path, environ=os.environ).settings)
    needed = (worker.Relay, router.Router, supervisor.Supervisor)
    assert all(needed)  # noqa: S101 (they are there; nothing is run yet)
    print(msgspec.json.encode(upgrade.abilities()).decode())  # noqa: T201 (the answer, read by the old code)


def _inherited(descriptor: int) -> socket.socket:
    os.set_inheritable(descriptor, False)
    sock = socket.socket(fileno=descriptor)
    sock.setblocking(False)
    return sock


if __name__ == "__main__":
    main(sys.argv[1:])
