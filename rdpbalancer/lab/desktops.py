"""Disconnected desktops, and the broker that knows on which server of a farm a user's desktop is."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from rdpbalancer.model import Endpoint

# A client names the user, so desktops are bounded; the oldest that nobody is connected to gives way.
MAX_DESKTOPS: Final = 100_000


@dataclass(slots=True, eq=False)
class Desktop:
    """A user's session on a terminal server: it stays when the user disconnects.

    `created_at` is in the clock of its server; `connections` are live, `visits` are all there ever were.
    """

    id: str
    user: str
    server: str
    created_at: float
    connections: int = 0
    visits: int = 0


class Desktops:
    """The desktops of one server, by user."""

    def __init__(self, server: str) -> None:
        self._server = server
        self._by_user: dict[str, Desktop] = {}
        self._made = 0

    def __len__(self) -> int:
        return len(self._by_user)

    def __iter__(self) -> Iterator[Desktop]:
        return iter(self._by_user.values())

    def __contains__(self, user: object) -> bool:
        return user in self._by_user

    def __getitem__(self, user: str) -> Desktop:
        return self._by_user[user]

    def arrive(self, user: str, *, now: float) -> tuple[Desktop, bool]:
        """Connect `user` to the desktop, made if need be. True: it was there already."""
        desktop = self._by_user.get(user)
        returned = desktop is not None
        if desktop is None:
            desktop = self._make(user, now)
        desktop.connections += 1
        desktop.visits += 1
        return desktop, returned

    def leave(self, desktop: Desktop) -> None:
        """Disconnect one connection. The desktop stays."""
        desktop.connections -= 1

    def log_off(self, user: str) -> None:
        """End the desktop of `user`, as logging off does. Live connections are not cut."""
        self._by_user.pop(user, None)

    def _make(self, user: str, now: float) -> Desktop:
        if len(self._by_user) >= MAX_DESKTOPS:
            idle = next((name for name, old in self._by_user.items() if not old.connections), None)
            self.log_off(idle if idle is not None else next(iter(self._by_user)))
        self._made += 1
        desktop = self._by_user[user] = Desktop(f"{self._server}-{self._made}", user, self._server, now)
        return desktop


class Broker:
    """Remembers where each user's desktop is; shared by the servers of a farm.

    `elsewhere` is the home of users it knows nothing about: a single server in a process of its own can
    so be told to redirect everybody.
    """

    def __init__(self, elsewhere: Endpoint | None = None) -> None:
        self._homes: dict[str, Endpoint] = {}
        self._elsewhere = elsewhere

    def home(self, user: str) -> Endpoint | None:
        """Return the address of the server with the desktop of `user`; None: nobody has it."""
        return self._homes.get(user, self._elsewhere)

    def assign(self, user: str, endpoint: Endpoint) -> None:
        """The desktop of `user` is on the server at `endpoint`, as that server is known to clients."""
        self._homes.pop(user, None)
        self._homes[user] = endpoint
        if len(self._homes) > MAX_DESKTOPS:
            self._homes.pop(next(iter(self._homes)))

    def forget(self, user: str) -> None:
        """The desktop of `user` is no more."""
        self._homes.pop(user, None)

    def forget_server(self, endpoint: Endpoint) -> None:
        """The server at `endpoint` is no more, nor are its desktops."""
        self._homes = {user: home for user, home in self._homes.items() if home != endpoint}
