"""One record per session, and who hears of which failure."""

import io

import msgspec
import pytest

from rdpbalancer.errors import ClientError, NoServerError, ProtocolError, RdpBalancerError, ServerError
from rdpbalancer.telemetry.account import Account
from rdpbalancer.telemetry.metrics import Metrics
from rdpbalancer.telemetry.users import UserMasking
from tests.unit.telemetry.samples import END, FACTS, RECORD, facts, lines


def account(how: str = "plain") -> Account:
    """Return an account of its own."""
    return Account(Metrics(), UserMasking(how, b"key"))


def test_the_record_of_a_session(log: io.StringIO) -> None:
    """Every documented field, by its name, in base units, rounded to what was measured."""
    account().closed(RECORD)
    (line,) = lines(log)
    assert ("info", "session_closed") == (line.pop("level"), line.pop("event"))
    line.pop("timestamp")
    assert {
        "process": "router",
        "session": "5ca1ab1e-7",
        "service": "ts-cluster",
        "client": "192.0.2.7:50123",
        "user": "EXAMPLE\\alice",
        "method": "rdp-cookie",
        "reason": "cookie",
        "server": "ts1",
        "attempts": 2,
        "token": "tsv://MS Terminal Services Plugin.1.Sessions",
        "token_kind": None,
        "requested_protocols": 11,
        "selected_protocol": 2,
        "negotiation_failure": 5,
        "correlation_id": "ab" * 16,
        "preconnection": "a virtual machine",
        "handshake_ms": 1.235,
        "queue_ms": 2500.0,
        "connect_ms": 7.0,
        "duration_s": 3600.5,
        "bytes_up": 1000,
        "bytes_down": 200_000,
        "close_reason": "eof",
        "close_side": "client",
        "relay": 4711,
    } == line


def test_a_session_without_a_user_has_the_same_fields(log: io.StringIO) -> None:
    """What is not known is null, not missing: columns do not come and go."""
    account().closed(RECORD)
    bare = facts(user=None, method=None, key=None, token=None, correlation_id=None, preconnection=None)
    account().closed(msgspec.structs.replace(RECORD, facts=bare))
    whole, empty = lines(log)
    assert list(whole) == list(empty)
    assert [None] * 5 == [
        empty[name] for name in ("user", "method", "token", "correlation_id", "preconnection")
    ]


def test_a_clock_set_back_makes_no_negative_duration(log: io.StringIO) -> None:
    """Wall clocks jump; histograms and readers take no negative seconds."""
    end = msgspec.structs.replace(END, ended_at=FACTS.started_at - 60)
    account().closed(msgspec.structs.replace(RECORD, end=end))
    assert [0.0] == [line["duration_s"] for line in lines(log)]


def test_the_opening_is_told_at_debug(log: io.StringIO) -> None:
    """One canonical line per session; its beginning is for debugging."""
    account().opened(FACTS)
    (line,) = lines(log)
    told = [line[name] for name in ("level", "event", "session", "service", "server")]
    assert ["debug", "session_opened", "5ca1ab1e-7", "ts-cluster", "ts1"] == told


@pytest.mark.parametrize(
    ("error", "user", "level"),
    [
        (ProtocolError("not-rdp", "a TLS hello"), None, "debug"),
        (ClientError("timeout", "too slow"), None, "debug"),
        (NoServerError("all-down", "nobody"), None, "debug"),
        (NoServerError("all-down", "nobody"), "alice", "warning"),
        (ServerError("refused", "no"), None, "warning"),
        (RdpBalancerError("internal", "ours"), "alice", "warning"),
    ],
)
def test_a_failure_is_told_as_loud_as_somebody_cares(
    log: io.StringIO, error: RdpBalancerError, user: str | None, level: str
) -> None:
    """Scanners fail all day long; a known user who fails is somebody on the phone."""
    account("hash").failed("ts-cluster", error, client="192.0.2.7:1", user=user)
    (line,) = lines(log)
    assert (level, "connection_failed", error.code, str(error), error.fault.value) == tuple(
        line[name] for name in ("level", "event", "reason", "detail", "fault")
    )
    assert UserMasking("hash", b"key")(user) == line["user"]


@pytest.mark.parametrize(("how", "shown"), [("plain", "EXAMPLE\\alice"), ("off", None)])
def test_users_appear_as_configured(log: io.StringIO, how: str, shown: str | None) -> None:
    """In the record and in failures alike."""
    account(how).closed(RECORD)
    account(how).failed("ts-cluster", ServerError("refused", "no"), client="c", user="EXAMPLE\\alice")
    assert [shown, shown] == [line["user"] for line in lines(log)]
