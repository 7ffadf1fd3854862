"""The configuration in use, kept in the runtime folder.

A router that starts anew while somebody is half way through editing the file must start with what was in use.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rdpbalancer.errors import ConfigurationError
from rdpbalancer.settings.load import load_to_keep, loads_kept
from rdpbalancer.settings.schema import Settings

FILE_NAME = "active.json"


@dataclass(frozen=True, slots=True)
class RunningConfig:
    """A configuration that has been found good. `path`: the file as the operator names it.

    `text` says the same as its files, variables and conf.d worked in.
    """

    path: Path
    settings: Settings
    text: str


class ConfigInUse:
    """The running configuration of one process: a reload replaces it."""

    def __init__(self, running: RunningConfig) -> None:
        self.running = running

    @property
    def settings(self) -> Settings:
        """The settings in use."""
        return self.running.settings

    @property
    def path(self) -> Path:
        """The file as the operator names it."""
        return self.running.path


def read(path: Path, *, environ: Mapping[str, str]) -> RunningConfig:
    """Read the operator's file. Raises ConfigurationErrors."""
    settings, text = load_to_keep(path, environ=environ)
    return RunningConfig(path, settings, text)


def keep(active: RunningConfig) -> Path:
    """Keep a configuration as the one in use, and return where. Raises OSError."""
    file = kept_file(active)
    fresh = file.with_name(f".{FILE_NAME}.{os.getpid()}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as out:
            out.write(active.text)
        fresh.rename(file)
    except OSError:
        fresh.unlink(missing_ok=True)
        raise
    return file


def kept_file(active: RunningConfig) -> Path:
    """Return where a configuration is kept while it is in use."""
    return active.settings.global_.runtime_dir / FILE_NAME


def kept(file: Path, path: Path, *, environ: Mapping[str, str]) -> RunningConfig:
    """Read back what `keep` wrote, or the operator's file if that cannot be used (any more).

    Raises ConfigurationError.
    """
    try:
        text = file.read_text(encoding="utf-8")
        return RunningConfig(path, loads_kept(text), text)
    except (OSError, UnicodeDecodeError, ConfigurationError):
        return read(path, environ=environ)


def relay_count(settings: Settings) -> int:
    """Return the number of relay processes; 0: the router relays itself."""
    relays = settings.global_.relays
    if isinstance(relays, int):
        return relays
    return len(os.sched_getaffinity(0))
