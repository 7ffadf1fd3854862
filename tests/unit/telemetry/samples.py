"""Sessions and their records, whole."""

import io
import json
from typing import Any

import msgspec

from rdpbalancer.model import CloseReason, CloseSide, Method, Reason, SessionEnd, SessionFacts, SessionRecord

FACTS = SessionFacts(
    id="5ca1ab1e-7",
    service="ts-cluster",
    server="ts1",
    client="192.0.2.7:50123",
    source="192.0.2.7",
    user="EXAMPLE\\alice",
    method=Method.RDP_COOKIE,
    key="example\\alice",
    reason=Reason.COOKIE,
    attempts=2,
    token="tsv://MS Terminal Services Plugin.1.Sessions",
    requested_protocols=11,
    selected_protocol=2,
    negotiation_failure=5,
    correlation_id="ab" * 16,
    preconnection="a virtual machine",
    handshake_ms=1.23456,
    queue_ms=2500.0,
    connect_ms=7.0004,
    started_at=1_000_000.0,
)
END = SessionEnd(CloseReason.EOF, CloseSide.CLIENT, 1000, 200_000, 1_003_600.5)
RECORD = SessionRecord(FACTS, END, 4711)


def facts(**changed: Any) -> SessionFacts:
    """Return the session with some of it otherwise."""
    return msgspec.structs.replace(FACTS, **changed)


def lines(log: io.StringIO) -> list[dict[str, Any]]:
    """Return the events logged so far."""
    return [json.loads(line) for line in log.getvalue().splitlines()]
