"""The rows of the control protocol, typed. docs/reference/control-protocol.md says what they mean.

Times are Unix time in seconds, `ago` and `expires_in` are seconds, `ms` milliseconds; None is "not known" or
"none".
"""

from typing import Any

import msgspec


class Row(msgspec.Struct, gc=False):
    """Base of all rows. Plain values, so the garbage collector need not look at a thousand of them."""


class OperatorOverride(Row):
    """What operators have said of a server, who, why, and when. `since` 0: nobody has, or it was not kept."""

    state: str
    strict: bool
    weight: int | None
    reason: str
    actor: str
    since: float


class AgentSummary(Row):
    """What a server's feedback agent last said."""

    percent: float | None
    weight: int | None
    max_connections: int | None
    state: str
    health: str
    reason: str
    heard_ago: float | None
    stale: bool
    failures: int


class Check(Row):
    """A server's last health check."""

    detail: str
    ms: float
    ago: float


class ServiceRow(Row):
    """A virtual service."""

    name: str
    listen: list[str]
    mode: str
    scheduler: str
    sessions: int
    queue: int
    servers_usable: int
    servers_total: int


class ServerRow(Row):
    """A real server. `sessions_total` and bytes count from the start of the router.

    `resolved`: the IP addresses behind a name; `token_addresses`: further ones that a routing token may name.
    """

    service: str
    name: str
    address: str
    state: str
    strict: bool
    health: str
    weight: int
    effective_weight: float
    sessions: int
    max_connections: int
    min_connections: int
    emptying: bool
    queue: int
    backup: bool
    agent: AgentSummary | None
    operator: OperatorOverride
    check: Check | None
    checks_failed: int
    sessions_total: int
    bytes_up: int
    bytes_down: int
    last_change: float
    reason: str
    resolved: list[str]
    token_addresses: list[str]


class ServerState(Row):
    """What `set-state` has come to: the effective state, the operator's and the agent's."""

    server: str
    state: str
    operator: str
    agent: str | None
    health: str
    sessions: int


class SessionRow(Row):
    """A live session."""

    id: str
    service: str
    server: str
    client: str
    user: str | None
    method: str | None
    key: str | None
    reason: str
    started: float
    relay: int
    bytes_up: int
    bytes_down: int
    state: str


class BindingRow(Row):
    """A binding. `expires_in` None: in use."""

    service: str
    method: str
    key: str
    server: str
    expires_in: float | None
    sessions: int
    confirmed: bool


class QueueRow(Row):
    """Somebody who waits for a place. `server` None: any will do."""

    service: str
    server: str | None
    client: str
    user: str | None
    since: float


class WarningRow(Row):
    """Something that an operator has to look at. `since`: when it was first seen."""

    code: str
    text: str
    since: float


class Process(Row):
    """A process of the service."""

    role: str
    pid: int
    memory_bytes: int | None
    started: float | None


Event = dict[str, Any]
