"""The seam at which several machines agree on a key's server.

One machine alone decides by what it knows. Where several share their bindings, another's may be newer: the
machine asks after it has reserved a slot, once, and only where a key is claimed. What may take time is
awaited outside this package, which knows no event loop.
"""

from collections.abc import Callable
from typing import Protocol

from rdpbalancer.model import Key, ServerId


class Answer(Protocol):
    """An answer that may not have come yet."""

    @property
    def done(self) -> bool:
        """Whether it has come."""
        ...

    @property
    def agreed(self) -> bool:
        """Whether the key may be bound to the server; if not, the bindings now say to which it is."""
        ...

    def add_callback(self, callback: Callable[[], None]) -> None:
        """Have `callback` called once, when it comes."""
        ...


class Agreement(Protocol):
    """Who is asked before a key is bound."""

    def ask(self, service: str, key: Key, server: ServerId, *, replacing: str | None) -> Answer | None:
        """Ask whether `key` may be bound to `server`. None: yes, at once, and nobody waits.

        `replacing`: the name of the server that it was bound to, which cannot take it now.
        """
        ...


class AlwaysAgreed:
    """One machine: there is nobody else."""

    def ask(self, service: str, key: Key, server: ServerId, *, replacing: str | None) -> None:
        """Agree."""
