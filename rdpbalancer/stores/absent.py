"""For how long the state of servers and services is kept that the configuration does not have. Pure."""

from collections.abc import Collection, Iterator, Mapping
from typing import Final

from rdpbalancer.model import ServerId

# For as long as a holiday replaces them, and no more than this, so that names which change daily do not fill
# the disk.
ABSENT_MAX_AGE_S: Final = 30 * 24 * 3600.0
MAX_ABSENT_OVERRIDES: Final = 10_000
MAX_ABSENT_BINDINGS: Final = 1_000_000


def with_services(servers: Collection[ServerId]) -> set[ServerId]:
    """Return the servers and their services: the name of one stands for it with an empty server name."""
    return {*servers, *(ServerId(server.service, "") for server in servers)}


def outlived(
    seen_at: Mapping[ServerId, float],
    *,
    configured: Collection[ServerId],
    overridden: Collection[ServerId],
    bindings: Mapping[str, int],
    in_use: Collection[str],
    wall: float,
) -> Iterator[ServerId]:
    """Yield the absent servers and services whose time is over, those that were seen last first.

    That is `ABSENT_MAX_AGE_S` after they were last seen (`seen_at`, Unix time, as `wall`); earlier, the
    longest absent first, beyond the bounds on overrides and bindings. `overridden`: servers with an override;
    `bindings`: their number by service; `in_use`: services whose store is in use, and would be written no
    more if it were forgotten: the next start forgets it. What is yielded may be taken out of `seen_at`.
    """
    absent = sorted(seen_at.keys() - with_services(configured), key=lambda server: -seen_at[server])
    overrides = bound = 0
    for server in absent:
        if server not in seen_at:
            continue  # gone with its service
        if not server.name and server.service in in_use:
            continue
        overrides += server in overridden
        if not server.name:
            bound += bindings.get(server.service, 0)
        too_many = overrides > MAX_ABSENT_OVERRIDES or bound > MAX_ABSENT_BINDINGS
        if too_many or wall - seen_at[server] > ABSENT_MAX_AGE_S:
            yield server
