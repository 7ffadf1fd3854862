"""Noticing when a client leaves while its connection waits for something else."""

import functools

from rdpbalancer.errors import ClientError, RdpBalancerError
from rdpbalancer.net.poller import Poller, hung_up
from rdpbalancer.session.connection import Connection
from rdpbalancer.session.slow import SlowConnections


class ClientWatch:
    """Watches the clients of connections that take their time, and ends those whose client has left."""

    def __init__(self, poller: Poller) -> None:
        self._poller = poller
        self._slow = SlowConnections(self._watch_slow)

    def watch_if_slow(self, conn: Connection) -> None:
        """Watch the client once its connection is slow; at once if it has been waited for already."""
        if conn.watch is not None:
            self.watch(conn)
        else:
            self._slow.add(conn)

    def watch(self, conn: Connection) -> None:
        """Notice from now on when the client leaves, whatever its connection waits for.

        Raises ClientError: it has left already.
        """
        self._slow.discard(conn)
        watch = conn.watch
        if watch is None:
            try:
                watch = conn.watch = self._poller.watch(conn.client, only_hang_up=True)
            except OSError as error:
                raise RdpBalancerError("internal", f"a client cannot be watched: {error}") from error
            watch.gone = hung_up(conn.client)
        watch.on_hang_up = functools.partial(_client_left, conn)
        if watch.gone is not None and _has_left(conn, watch.gone):
            raise gave_up(conn)

    def done(self, conn: Connection) -> None:
        """The connection has ended, or is a session's: watch its client no longer."""
        self._slow.discard(conn)
        if conn.watch is not None:
            conn.watch.end()

    def close(self) -> None:
        """Watch nobody any more."""
        self._slow.close()

    def _watch_slow(self, conn: Connection) -> None:
        try:
            self.watch(conn)
        except RdpBalancerError as error:
            if conn.steps is not None:
                conn.steps.throw(error)


def _client_left(conn: Connection, gone: bool) -> None:  # noqa: FBT001 (as a watch tells it)
    """End a connection whose client has left: nothing of it stays at a server, or half open."""
    if _has_left(conn, gone) and conn.steps is not None:
        conn.steps.throw(gave_up(conn))


def _has_left(conn: Connection, gone: bool) -> bool:  # noqa: FBT001 (as a watch tells it)
    """Whether a client's hang-up is its end. `gone`: see `net.poller.FdWaiter`.

    A FIN may also come from one that has asked and still listens. Who waits in the queue has to be there,
    whatever its protocol (docs/decisions/0020).
    """
    if gone or conn.frontend.half_close_is_the_end or conn.queueing:
        return True
    conn.half_closed = True
    return False


def gave_up(conn: Connection) -> ClientError:
    """Return the error of a client that has left before it was served."""
    where = "the queue" if conn.queueing else "before a server had answered"
    return ClientError("gave-up", f"the client left {where}")
