"""The health word: whether users who come now can be served, in one word, wherever it is asked for.

`status` shows it, `/readyz` answers with it; balancers in front and keepalived's scripts act on it.
"""

from collections.abc import Mapping
from enum import StrEnum


class HealthWord(StrEnum):
    """What the balancer, or one of its virtual services, can do for a user who comes now."""

    OK = "ok"
    STARTING = "starting"  # not listening yet: real servers are being checked for the first time
    STOPPING = "stopping"  # takes nobody any more
    NO_SERVERS = "no-servers"  # no real server may be given a new user
    UNKNOWN_SERVICE = "unknown-service"  # asked for a virtual service that is not configured


def health_word(
    usable: Mapping[str, int], *, accepting: bool, stopping: bool, service: str | None = None
) -> HealthWord:
    """Return the word for one virtual service, or, with None, for all of them together.

    `usable`: for each virtual service how many real servers take new users, backups included. Of several
    services one with a server is enough for `ok`: this machine is worth being sent to, and whoever cares for
    one service asks for that one. Full servers count: users wait for a place, which is served.
    """
    if service is not None and service not in usable:
        return HealthWord.UNKNOWN_SERVICE
    if stopping:
        return HealthWord.STOPPING
    if not accepting:
        return HealthWord.STARTING
    asked_for = usable.values() if service is None else (usable[service],)
    return HealthWord.OK if any(asked_for) else HealthWord.NO_SERVERS
