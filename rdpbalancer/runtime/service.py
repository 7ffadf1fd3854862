"""The service's main function: `rdpbalancer run`, also after an upgrade."""

import os
from pathlib import Path

from rdpbalancer.errors import ConfigurationError
from rdpbalancer.runtime import program as programs
from rdpbalancer.runtime import running_config, signals, upgrade
from rdpbalancer.runtime.notify import Notifier
from rdpbalancer.runtime.program import Program
from rdpbalancer.runtime.supervisor import Supervisor
from rdpbalancer.runtime.supervisor_setup import configure_logs, prepare_folders
from rdpbalancer.runtime.upgrade import Inherited
from rdpbalancer.telemetry import defects
from rdpbalancer.telemetry.events import Events


async def serve(path: Path) -> None:
    """Run the service with the configuration at `path`. Raises ConfigurationError, ChannelError, OSError."""
    signals.ignore_harmless()
    program = programs.own()
    inherited = upgrade.inherited_state()
    try:
        supervisor = _supervisor(path, program, inherited)
    except Exception as error:
        if inherited is not None and inherited.before is not None:
            upgrade.go_back(inherited.before, inherited, path, f"{type(error).__name__}: {error}")
        raise
    await supervisor.run()


def _supervisor(path: Path, program: Program, inherited: Inherited | None) -> Supervisor:
    if inherited is None:
        running = running_config.read(path, environ=os.environ)
        prepare_folders(running)
    else:
        running = running_config.kept(Path(inherited.kept), path, environ=os.environ)
    events = Events()
    try:
        configure_logs(running)
    except ConfigurationError as error:
        if inherited is None:
            raise
        # Not for the want of a log is a service to end whose sessions have been taken over.
        configure_logs(running, to_file=False)
        events.error("log_not_reopened", detail=str(error))
    defects.report(events, ends=True)
    return Supervisor(
        running, events=events, notifier=Notifier(os.environ), program=program, inherited=inherited
    )
