"""A simulated terminal server that tells what happens to it, for whoever watches it at work."""

from collections.abc import Callable

from rdpbalancer.lab.desktops import Desktop
from rdpbalancer.lab.server import LabServer
from rdpbalancer.lab.terminal import Session


def _silent(_text: str) -> None:
    pass


class TellingServer(LabServer):
    """Tells every session's beginning, login and end in one line each. Probes are counted, not told."""

    tell: Callable[[str], None] = staticmethod(_silent)

    def begin(self, session: Session) -> None:
        """The session has its confirm."""
        super().begin(session)
        request = session.received.request
        parts = [
            f"cookie {request.cookie}" if request.cookie is not None else "no cookie",
            *([f"token {request.token!r}"] if request.token is not None else []),
            *(
                [f"protocols {request.requested_protocols}"]
                if request.requested_protocols is not None
                else []
            ),
        ]
        self.tell(f"{session.received.client}: connected ({', '.join(parts)})")

    def log_in(self, session: Session, user: str) -> tuple[Desktop, bool]:
        """Connect the session to the desktop of `user`."""
        desktop, returned = super().log_in(session, user)
        how = f"back, visit {desktop.visits}" if returned else "new"
        self.tell(f"{session.received.client}: {user} on desktop {desktop.id} ({how})")
        return desktop, returned

    def end(self, session: Session) -> None:
        """The session is over."""
        redirected = (
            session.desktop is None
            and session.user is not None
            and (self.broker or self.handovers) is not None
        )
        super().end(session)
        self.tell(f"{session.received.client}: {'sent elsewhere' if redirected else 'gone'}")

    def summary(self) -> str:
        """Return what has happened in all, in one line."""
        counters = self.counters
        return (
            f"{self.name}: {counters.requests} requests, {counters.probes} health checks,"
            f" {counters.logins} logins to {len(self.desktops)} desktops, {counters.redirects} redirections"
        )
