"""What an operator's words stand for: services, servers and sessions, found by name, pattern and network.

Whatever is not there is refused with what is: an empty table, or "0 sessions ended", would read as "there are
none", and that is what people read before they switch a machine off.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from fnmatch import fnmatchcase
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Final

from rdpbalancer.core.dispatch import Dispatcher
from rdpbalancer.core.ledger import LiveSession
from rdpbalancer.core.source import client_address
from rdpbalancer.errors import ConfigurationError
from rdpbalancer.model import ServerId

# Names in an error text. Somebody with 200 servers looks for the one that is alike, not through all.
_NAMED: Final = 20

Matches = Callable[[LiveSession], bool]


def check_service(dispatcher: Dispatcher, service: str | None) -> None:
    """Raise ConfigurationError if there is no such service, and no session of one that there was."""
    services = dispatcher.farm.services
    if service is None or service in services or dispatcher.ledger.sessions_of(service):
        return
    raise ConfigurationError(
        "unknown-service", f"there is no service {service}; there are: {listed(services)}"
    )


def servers(dispatcher: Dispatcher, names: Sequence[str], service: str | None) -> list[ServerId]:
    """Return the configured servers that `names` stand for, each once, in the configuration's order.

    A name is ``server`` (in every service, or in `service`) or ``service/server``; in both parts ``*``, ``?``
    and ``[...]`` stand for more, as in a shell. Raises ConfigurationError for a name that finds none.
    """
    check_service(dispatcher, service)
    known = dispatcher.farm.servers()
    found: set[ServerId] = set()
    for name in names:
        matching = [id_ for id_ in known if _matches(id_, name, service)]
        if not matching:
            raise unknown_server(name, service, known)
        found.update(matching)
    return [id_ for id_ in known if id_ in found]


def check_server(dispatcher: Dispatcher, server: str | None, service: str | None) -> None:
    """Raise ConfigurationError if no server of that name is configured, or has sessions still."""
    if server is None:
        return
    known = {*dispatcher.farm.servers(), *dispatcher.ledger.servers()}
    if not any(names_server(id_, server) and service in (None, id_.service) for id_ in known):
        raise unknown_server(server, service, known)


def names_server(server: ServerId, name: str | None) -> bool:
    """Whether ``server``, or ``service/server``, is this one; None is any."""
    return name in (None, server.name, str(server))


def sessions(
    *,
    session: str | None = None,
    service: str | None = None,
    server: str | None = None,
    user: str | None = None,
    source: str | None = None,
) -> Matches:
    """Return a test for sessions that match every word that is given; users match in any case.

    Raises ConfigurationError: `source` is neither an IP address nor a network.
    """
    wanted_user = None if user is None else user.lower()
    network = None if source is None else source_network(source)

    def matches(live: LiveSession) -> bool:
        facts = live.facts
        return (
            session in (None, facts.id)
            and service in (None, facts.service)
            and names_server(facts.server_id, server)
            and (wanted_user is None or (facts.user is not None and facts.user.lower() == wanted_user))
            and (network is None or client_address(facts.source) in network)
        )

    return matches


def source_network(text: str) -> IPv4Network | IPv6Network:
    """Return the network of an address or a network in text. Raises ConfigurationError: it is neither."""
    try:
        if "/" in text:
            return ip_network(text)
        return ip_network(client_address(text))
    except ValueError:
        pass
    try:
        right = ip_network(text, strict=False)
    except ValueError:
        message = f"{text} is neither an IP address nor a network"
    else:
        message = f"{text} is no network: did you mean {right}?"
    raise ConfigurationError("bad-address", message)


def unknown_server(name: str, service: str | None, known: Collection[ServerId]) -> ConfigurationError:
    """Return the error for a server that is not there."""
    where = f" in service {service}" if service else ""
    names = listed(str(id_) for id_ in known)
    return ConfigurationError("unknown-server", f"there is no server {name}{where}; there are: {names}")


def listed(names: Iterable[str]) -> str:
    """Return names in words, so many that a person reads them."""
    ordered = sorted(set(names))
    more = f" and {len(ordered) - _NAMED} more" if len(ordered) > _NAMED else ""
    return ", ".join(ordered[:_NAMED]) + more


def _matches(server: ServerId, name: str, service: str | None) -> bool:
    if service is None and "/" in name:
        wanted_service, _, name = name.partition("/")
        if not _alike(server.service, wanted_service):
            return False
    elif service is not None:
        name = name.removeprefix(f"{service}/")
    return service in (None, server.service) and _alike(server.name, name)


def _alike(name: str, pattern: str) -> bool:
    return name == pattern or fnmatchcase(name, pattern)
