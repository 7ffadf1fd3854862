"""The entry of child processes: ``python -m rdpbalancer.runtime.child ROLE ...``.

Only the supervisor starts these. Signals of a terminal or a service manager reach every process of the
service; children leave them to the supervisor, whose word they get over their line. Descriptor 2 is a pipe to
the supervisor, for last words; what is logged goes to the descriptor that follows the role.
"""

import os
import signal
import socket
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

import setproctitle

from rdpbalancer.runtime.loop import run
from rdpbalancer.runtime.signals import ignore_harmless


def main(arguments: Sequence[str]) -> None:
    """Run a child process to its end."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    ignore_harmless()
    role = arguments[0] if arguments else ""
    if role in ("relay", "router"):
        _serve(role, arguments[1:])
    elif role in ("preflight", "abilities"):
        _preflight(Path(arguments[1]), Path(arguments[2]), rehearse=role == "preflight")
    else:
        message = f"rdpbalancer.runtime.child: there is no role {role!r}"
        raise SystemExit(message)


def _serve(role: str, arguments: Sequence[str]) -> None:
    from rdpbalancer.runtime import program

    program.own()  # its descriptor is this process's own, and its variables nobody's
    os.set_inheritable(int(arguments[0]), False)
    sys.stderr = os.fdopen(int(arguments[0]), "w", buffering=1, errors="backslashreplace")
    try:
        if role == "relay":
            supervisor, router, index = arguments[1:]
            setproctitle.setproctitle(f"rdpbalancer: relay {index}")
            run(_relay(int(router), int(supervisor), log=int(arguments[0])))
        else:
            supervisor, kept, path = arguments[1:]
            setproctitle.setproctitle("rdpbalancer: router")
            run(_router(int(supervisor), Path(kept), Path(path)))
    except BaseException:
        text = traceback.format_exc()
        os.write(2, text.encode(errors="backslashreplace"))  # the supervisor logs it as why we have ended
        sys.stderr = None  # told once
        raise


async def _relay(router: int, supervisor: int, *, log: int) -> None:
    from rdpbalancer.relay.worker import Relay
    from rdpbalancer.telemetry import defects, logs
    from rdpbalancer.telemetry.events import Events
    from rdpbalancer.telemetry.writer import Writer

    # To the supervisor, which has the log. After an upgrade there is none on that pipe any more.
    events = Writer(2, otherwise=log)
    logs.configure(log_format="json", level="info", process="relay", stream=events)
    defects.report(Events(), ends=False)
    await Relay(_inherited(router), _inherited(supervisor)).run()


async def _router(supervisor: int, kept: Path, path: Path) -> None:
    from rdpbalancer.runtime import running_config
    from rdpbalancer.runtime.router import Router
    from rdpbalancer.telemetry import defects

    router = Router(_inherited(supervisor), running_config.kept(kept, path, environ=os.environ))
    defects.report(router.events, ends=False)
    await router.run()


def _preflight(kept: Path, path: Path, *, rehearse: bool) -> None:
    """Show that this code starts: everything can be imported, and the configuration in use be read.

    `rehearse`: supervisor, router and a relay also run, for a moment, on a copy of the state.
    """
    import msgspec

    from rdpbalancer.relay import worker
    from rdpbalancer.runtime import rehearsal, router, running_config, service, supervisor, upgrade
    from rdpbalancer.settings.farm_builder import farm_of

    in_use = running_config.kept(kept, path, environ=os.environ)
    farm_of(in_use.settings)
    needed = (worker.Relay, router.Router, supervisor.Supervisor, service.serve)
    assert all(needed)  # noqa: S101 (they are there; whether they run is tried below)
    if rehearse and (problem := run(rehearsal.rehearse(in_use))):
        raise SystemExit(problem)
    print(msgspec.json.encode(upgrade.abilities()).decode())  # noqa: T201 (the answer, read by the old code)


def _inherited(descriptor: int) -> socket.socket:
    os.set_inheritable(descriptor, False)
    sock = socket.socket(fileno=descriptor)
    sock.setblocking(False)
    return sock


if __name__ == "__main__":
    main(sys.argv[1:])
