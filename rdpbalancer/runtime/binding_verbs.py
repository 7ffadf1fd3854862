"""The operator's verbs that change bindings: where a user, or an address, goes next time."""

from collections.abc import Awaitable, Callable, Iterator
from ipaddress import ip_network
from typing import Any

from rdpbalancer.core.dispatch import Dispatcher
from rdpbalancer.core.farm import PersistencePolicy
from rdpbalancer.core.persistence import cookie_key, source_key
from rdpbalancer.core.similar_keys import MOST, is_near
from rdpbalancer.errors import ConfigurationError
from rdpbalancer.model import Key, Method
from rdpbalancer.runtime import select

# Tells that an operator has done something: what, and fields of the event.
Told = Callable[..., None]


class BindingVerbs:
    """Moves and deletes bindings. `tell` makes the event; `written` waits until it is on disk."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        *,
        clock: Callable[[], float],
        tell: Told,
        written: Callable[[], Awaitable[None]],
        breathe: Callable[[], Awaitable[None]],
    ) -> None:
        self._dispatcher = dispatcher
        self._clock = clock
        self._tell = tell
        self._written = written
        self._breathe = breathe

    def verbs(self) -> dict[str, Callable[..., Awaitable[Any]]]:
        """Return every verb of this class by its name on the control socket."""
        return {"persist-move": self._move, "persist-delete": self._delete}

    async def _move(
        self,
        key: str,
        server: str,
        service: str | None = None,
        method: str | None = None,
        *,
        reason: str = "",
        actor: str = "",
    ) -> dict[str, Any]:
        """Bind a key to a server, from its next connection on; live sessions stay where they are."""
        targets = {id_.service: id_.name for id_ in select.servers(self._dispatcher, [server], service)}
        if len(targets) < len(select.servers(self._dispatcher, [server], service)):
            raise ConfigurationError("bad-parameters", f"server: {server} stands for more than one server")
        found = [(name, bound) for name, bound in self._keys(key, service, method) if name in targets]
        created = not found
        near: list[str] = []
        if created:
            found = [(name, self._new_key(name, key, method)) for name in targets]
            near = await self._near(key, service)
        now = self._clock()
        for name, bound in found:
            policy = self._dispatcher.farm.services[name].persistence
            live = self._dispatcher.ledger.live_of(name, bound)
            self._dispatcher.bindings.of(name).move(
                bound, targets[name], now=now, ttl_s=None if live else policy.timeout_s
            )
            self._dispatcher.queues.wake_all(name)
        moved_to = next(targets[name] for name, _ in found)
        self._tell(
            f"moved {_counted(len(found))} to {moved_to}",
            server=moved_to,
            key=found[0][1],
            reason=reason,
            actor=actor,
        )
        await self._written()
        made = len(found) if created else 0
        return {"moved": len(found) - made, "created": made, "near": near, "server": moved_to}

    async def _delete(
        self,
        key: str,
        service: str | None = None,
        method: str | None = None,
        *,
        reason: str = "",
        actor: str = "",
    ) -> dict[str, Any]:
        """Forget a key's binding."""
        found = self._keys(key, service, method)
        if not found:
            near = await self._near(key, service)
            hint = f"; there are: {', '.join(near)}" if near else ""
            raise ConfigurationError("unknown-key", f"there is no binding of {key}{hint}")
        for name, bound in found:
            self._dispatcher.bindings.of(name).delete(bound)
            self._dispatcher.queues.wake_all(name)
        self._tell(f"deleted {_counted(len(found))}", key=found[0][1], reason=reason, actor=actor)
        await self._written()
        return {"deleted": len(found)}

    def _keys(self, key: str, service: str | None, method: str | None) -> list[tuple[str, Key]]:
        methods = [Method.RDP_COOKIE, Method.SOURCE_IP] if method is None else [method_of(method)]
        select.check_service(self._dispatcher, service)
        now = self._clock()
        return [
            (name, each)
            for name, configured in self._dispatcher.farm.services.items()
            if service in (None, name)
            for each in (_key(configured.persistence, key, wanted) for wanted in methods)
            if each is not None and self._dispatcher.bindings.of(name).get(each, now=now) is not None
        ]

    async def _near(self, key: str, service: str | None) -> list[str]:
        """Return keys that somebody may have meant who wrote `key`."""
        found: set[str] = set()
        for each in self._all_keys(service):
            if is_near(key, each):
                found.add(each.value)
                if len(found) >= MOST:
                    break
            await self._breathe()
        return sorted(found)

    def _all_keys(self, service: str | None) -> Iterator[Key]:
        for name in list(self._dispatcher.farm.services):
            if service in (None, name):
                yield from self._dispatcher.bindings.of(name).keys()

    def _new_key(self, service: str, key: str, method: str | None) -> Key:
        """Return the key of somebody who has no binding yet: the one that the next connection will have."""
        policy = self._dispatcher.farm.services[service].persistence
        made = _key(policy, key, method_of(method or Method.RDP_COOKIE))
        if made is None:
            raise ConfigurationError("bad-address", f"{key} is neither an IP address nor a network")
        if made.method is Method.SOURCE_IP and made != source_key(policy, made.value.partition("/")[0]):
            right = source_key(policy, made.value.partition("/")[0]).value
            message = f"no client has {key} as its key in {service}: sources are kept as {right} there"
            raise ConfigurationError("bad-address", message)
        return made


def method_of(name: str) -> Method:
    """Return the method of that name. Raises ConfigurationError: no binding is of such a method."""
    if name not in (Method.RDP_COOKIE, Method.SOURCE_IP):
        raise ConfigurationError("unknown-method", f"bindings are of rdp-cookie or source-ip, not {name}")
    return Method(name)


def _key(policy: PersistencePolicy, key: str, method: Method) -> Key | None:
    """Return the key as connections have it; None: what is no address or network is no source.

    A network is taken as it is: that is how `show persistence` shows sources that are cut to a prefix.
    """
    if method is not Method.SOURCE_IP:
        return cookie_key(policy, key) or Key(method, key.lower())
    try:
        return Key(method, str(ip_network(key))) if "/" in key else source_key(policy, key)
    except ValueError:
        return None


def _counted(bindings: int) -> str:
    return f"{bindings} binding" if bindings == 1 else f"{bindings} bindings"
