"""How a router logs: where, at which level, and how users are named."""

import os

from rdpbalancer.errors import ConfigurationError
from rdpbalancer.settings.schema import Settings
from rdpbalancer.telemetry import logs
from rdpbalancer.telemetry.events import Events
from rdpbalancer.telemetry.users import UserMasking, installation_key


class RouterLogs:
    """The log of one router, as the settings in use say."""

    def __init__(self, settings: Settings, events: Events) -> None:
        self._events = events
        # For users' names where no key can be kept: for as long as this process lives.
        self._passing_key = os.urandom(32)
        log = settings.global_.log
        # To standard error first: users do not wait for a file that cannot be written.
        logs.configure(log_format=log.format, level=log.level, process="router")
        self.reopen(settings)

    def reopen(self, settings: Settings) -> None:
        """Open the log anew, after a rotation or with other settings. What is impossible is reported."""
        log = settings.global_.log
        try:
            logs.configure(log_format=log.format, level=log.level, file=log.file, process="router")
        except ConfigurationError as error:
            self._events.error("log_not_reopened", detail=str(error))

    def users(self, settings: Settings) -> UserMasking:
        """Return how users are named in the log by these settings."""
        how, key = settings.global_.log.user, self._passing_key
        if how == "hash":
            try:
                key = installation_key(settings.global_.state_dir)
            except OSError as error:
                detail = f"{error}; until a reload finds one, the next start will hash them differently"
                self._events.error("user_hash_key_not_kept", detail=detail)
        return UserMasking(how, key)
