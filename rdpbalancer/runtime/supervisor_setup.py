"""Before the supervisor serves: its folders, its log, and what the program before it may have left."""

import os
from pathlib import Path

from rdpbalancer.errors import ConfigurationError
from rdpbalancer.runtime.running_config import RunningConfig
from rdpbalancer.telemetry import logs


def configure_logs(running: RunningConfig, *, to_file: bool = True) -> None:
    """Have the supervisor log as the configuration says. Raises ConfigurationError: the file cannot be."""
    log = running.settings.global_.log
    file = log.file if to_file else None
    logs.configure(log_format=log.format, level=log.level, file=file, process="supervisor")


def prepare_folders(running: RunningConfig) -> None:
    """Make the runtime and state folders. Raises ConfigurationError."""
    for name in ("runtime_dir", "state_dir"):
        folder: Path = getattr(running.settings.global_, name)
        try:
            folder.mkdir(mode=0o750, parents=True, exist_ok=True)
            if not os.access(folder, os.W_OK | os.X_OK):
                raise PermissionError(13, "it is not writable for this user")
        except OSError as error:
            why = f"{folder} cannot be used: {error.strerror or error}"
            message = f"global.{name}: {why}; it has to be a folder that the service's user may write to"
            raise ConfigurationError("folder", message) from error
