"""What the durable copy is made of: rows, and the changes of one transaction.

Times in rows are Unix seconds, because monotonic time does not outlive the machine's uptime. A key's value
is kept as bytes: what a client sends may hold characters that SQLite's text cannot.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

from rdpbalancer.core.persistence import Binding
from rdpbalancer.core.status import Override
from rdpbalancer.model import Intent, Key, Method, ServerId


class BindingRecord(NamedTuple):
    """A confirmed binding. `expires_at` (Unix) and `life_s` None: pinned."""

    service: str
    method: str
    value: bytes
    server: str
    expires_at: float | None
    life_s: float | None


class OverrideRecord(NamedTuple):
    """An operator's override of a server: what is wanted, why, by whom, and since when (Unix)."""

    service: str
    server: str
    intent: str
    strict: bool
    weight: int | None
    reason: str
    actor: str
    since: float


class ConfiguredRecord(NamedTuple):
    """When a server (or, with an empty `server`, a service) was last seen in the configuration (Unix)."""

    service: str
    server: str
    seen_at: float


class Contents(NamedTuple):
    """What of a state file is read at once. Bindings are not: they are read by key, and loaded in slices.

    `counts`: bindings that have not expired, by service and method.
    """

    overrides: list[OverrideRecord]
    configured: list[ConfiguredRecord]
    counts: dict[str, dict[Method, int]]


@dataclass(frozen=True, slots=True)
class Changes:
    """What one transaction writes, and the names of what it is about, for putting it back.

    `forgotten` services go first. A key or server that is named but has no row is deleted. `wall`: Unix
    time when the changes were taken. `seen`: rows of `configured` that are new or renewed. `sweep`: also
    delete bindings that have expired by then; those of services that nobody asks for expire unseen.
    """

    wall: float
    forgotten: tuple[str, ...] = ()
    keys: dict[str, list[Key]] = field(default_factory=dict)
    bound: list[BindingRecord] = field(default_factory=list)
    unbound: list[tuple[str, str, bytes]] = field(default_factory=list)
    servers: list[ServerId] = field(default_factory=list)
    overridden: list[OverrideRecord] = field(default_factory=list)
    taken_back: list[ServerId] = field(default_factory=list)
    seen: list[ConfiguredRecord] = field(default_factory=list)
    unseen: list[ServerId] = field(default_factory=list)
    sweep: bool = False


def pack_value(value: str) -> bytes:
    """Return a key's value as stored: UTF-8, with lone surrogates (escaped foreign bytes) kept."""
    return value.encode("utf-8", "surrogatepass")


def pack_binding(service: str, binding: Binding, *, now: float, wall: float) -> BindingRecord:
    """Return the row of a confirmed binding; `now` (monotonic) and `wall` (Unix) are the same moment."""
    left_s = None if binding.expires_at is None else binding.expires_at - now
    expires_at = None if left_s is None else wall + left_s
    key = binding.key
    return BindingRecord(service, key.method.value, pack_value(key.value), binding.server, expires_at, left_s)


def unpack_binding(row: BindingRecord, *, now: float, wall: float) -> Binding:
    """Return the binding of a row.

    Its remaining life is what the wall clock says, but never longer than when the row was written: a clock
    that was set back since must not keep users bound for a year.
    """
    key = Key(Method(row.method), row.value.decode("utf-8", "surrogatepass"))
    if row.expires_at is None or row.life_s is None:
        return Binding(key, row.server, confirmed=True, expires_at=None)
    left_s = max(0.0, min(row.expires_at - wall, row.life_s))
    return Binding(key, row.server, confirmed=True, expires_at=now + left_s)


def pack_override(server: ServerId, override: Override) -> OverrideRecord:
    """Return the row of an override."""
    return OverrideRecord(
        server.service,
        server.name,
        override.intent.value,
        override.strict,
        override.weight,
        override.reason,
        override.actor,
        override.since,
    )


def unpack_override(row: OverrideRecord) -> tuple[ServerId, Override]:
    """Return the server and the override of a row."""
    override = Override(
        Intent(row.intent), bool(row.strict), row.weight, row.reason, row.actor, since=row.since
    )
    return ServerId(row.service, row.server), override
