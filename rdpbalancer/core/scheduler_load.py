"""What a server carries, as the schedulers count it: people, where they can be told apart.

Ten connections that one user opens at once follow each other to one server; counted one by one they would
make that server look ten users full, and the next nine users go elsewhere. So all connections with one cookie
from one address count once. Connections without a cookie, or bound by their address, count each: behind one
address may be a whole office. The limit of a server (`max_connections`) counts connections all the same.
"""

from collections import defaultdict

from rdpbalancer.model import Key, Method, ServerId


class SchedulerLoads:
    """Counts what each server carries."""

    def __init__(self) -> None:
        self._servers: defaultdict[ServerId, int] = defaultdict(int)
        self._people: defaultdict[tuple[ServerId, Key, str], int] = defaultdict(int)

    def __bool__(self) -> bool:
        return bool(self._servers or self._people)

    def of(self, server: ServerId) -> int:
        """Return what the server carries."""
        return self._servers.get(server, 0)

    def add(self, server: ServerId, key: Key | None, source: str) -> None:
        """Put a connection on the server. `source`: the client's address."""
        if key is not None and key.method is Method.RDP_COOKIE:
            person = (server, key, source)
            self._people[person] = count = self._people[person] + 1
            if count > 1:
                return
        self._servers[server] += 1

    def remove(self, server: ServerId, key: Key | None, source: str) -> None:
        """Take a connection off the server, named as it was put on it."""
        if key is not None and key.method is Method.RDP_COOKIE:
            person = (server, key, source)
            count = self._people[person] - 1
            if count:
                self._people[person] = count
                return
            del self._people[person]
        self._servers[server] -= 1
        if not self._servers[server]:
            del self._servers[server]
