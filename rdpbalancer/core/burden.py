"""What a server carries, as the schedulers count it: people, where they can be told apart.

Ten connections that one user opens at once follow each other to one server; counted one by one they would
make that server look ten users full, and the next nine users go elsewhere. So all connections with one cookie
from one address count once. Connections without a cookie, or bound by their address, count each: behind one
address may be a whole office. The limit of a server (`max_connections`) counts connections all the same.
"""

from collections import Counter

from rdpbalancer.model import Key, Method, ServerId


class Burdens:
    """Counts what each server carries."""

    def __init__(self) -> None:
        self._servers: Counter[ServerId] = Counter()
        self._people: Counter[tuple[ServerId, Key, str]] = Counter()

    def __bool__(self) -> bool:
        return bool(self._servers or self._people)

    def of(self, server: ServerId) -> int:
        """Return what the server carries."""
        return self._servers[server]

    def add(self, server: ServerId, key: Key | None, source: str) -> None:
        """Put a connection on the server. `source`: the client's address."""
        if key is not None and key.method is Method.RDP_COOKIE:
            person = (server, key, source)
            self._people[person] += 1
            if self._people[person] > 1:
                return
        self._servers[server] += 1

    def remove(self, server: ServerId, key: Key | None, source: str) -> None:
        """Take a connection off the server, named as it was put on it."""
        if key is not None and key.method is Method.RDP_COOKIE:
            person = (server, key, source)
            self._people[person] -= 1
            if self._people[person]:
                return
            del self._people[person]
        self._servers[server] -= 1
        if not self._servers[server]:
            del self._servers[server]
