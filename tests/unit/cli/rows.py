"""What a service answers to `servers`, `sessions` and the like: one plausible farm."""

import time
from typing import Any

# Shown as AGO, however long the tests take.
LONG_AGO = time.time() - (2 * 24 + 3.5) * 3600
AGO = "2d 3h"


def server(name: str = "ts1", **said: Any) -> dict[str, Any]:
    """Return a real server's row."""
    return {
        "service": "ts",
        "name": name,
        "address": f"{name}.example.net:3389",
        "state": "online",
        "strict": False,
        "health": "up",
        "weight": 100,
        "effective_weight": 100.0,
        "sessions": 0,
        "max_connections": 0,
        "queue": 0,
        "backup": False,
        "agent": None,
        "checks_failed": 0,
        "last_change": LONG_AGO,
        "reason": "confirmed",
        "operator": operator(),
        "check": {"detail": "confirmed", "ms": 1.24, "ago": 2.0},
        "sessions_total": 0,
        "bytes_up": 0,
        "bytes_down": 0,
        "resolved": [],
        "token_addresses": [],
        **said,
    }


def operator(**said: Any) -> dict[str, Any]:
    """Return what operators have said of a server: nothing, if nothing is given."""
    nothing = {"state": "online", "strict": False, "weight": None, "reason": "", "actor": "", "since": 0.0}
    return {**nothing, **said}


def agent(**said: Any) -> dict[str, Any]:
    """Return what a row tells of a server's feedback agent."""
    return {
        "percent": 75,
        "weight": None,
        "max_connections": None,
        "state": "online",
        "health": "up",
        "reason": "",
        "heard_ago": 0.5,
        "stale": False,
        "failures": 0,
        **said,
    }


def service(**said: Any) -> dict[str, Any]:
    """Return a virtual service's row."""
    return {
        "name": "ts",
        "listen": ["0.0.0.0:3389", "[::]:3389"],
        "mode": "rdp",
        "scheduler": "weighted-least-connections",
        "sessions": 3,
        "queue": 1,
        "servers_usable": 1,
        "servers_total": 2,
        **said,
    }


def session(**said: Any) -> dict[str, Any]:
    """Return a live session's row."""
    return {
        "id": "5ca1ab1e-1",
        "service": "ts",
        "server": "ts1",
        "client": "192.0.2.7:50123",
        "user": "EXAMPLE\\alice",
        "method": "rdp-cookie",
        "key": "example\\alice",
        "reason": "cookie",
        "started": LONG_AGO,
        "relay": 4711,
        "bytes_up": 1000,
        "bytes_down": 5 * 1024 * 1024,
        "state": "established",
        **said,
    }


def binding(**said: Any) -> dict[str, Any]:
    """Return a binding's row."""
    return {
        "service": "ts",
        "method": "rdp-cookie",
        "key": "example\\alice",
        "server": "ts1",
        "expires_in": 3599.9,
        "sessions": 0,
        "confirmed": True,
        **said,
    }


def status(**said: Any) -> dict[str, Any]:
    """Return what `status` answers."""
    return {
        "status": "running",
        "version": "1.2.3",
        "generation": 1,
        "pid": 4700,
        "router": 4701,
        "router_started": LONG_AGO,
        "relays": {"4711": 2, "4712": 1},
        "relays_retiring": [],
        "sessions": 3,
        "half_open": 0,
        "config": "/etc/rdpbalancer/rdpbalancer.yaml",
        "services": [service()],
        "servers": [server(), server("ts2", health="down", reason="no answer within 2 s")],
        **said,
    }


def told(*servers: str, sessions: int = 0, kicked: int = 0, state: str = "drain") -> dict[str, Any]:
    """Return what `set-state` answers; the first server has all the sessions."""
    named = servers or ("ts/ts1",)
    told = [
        {
            "server": server,
            "state": state,
            "operator": state,
            "agent": None,
            "health": "up",
            "sessions": 0 if number else sessions,
        }
        for number, server in enumerate(named)
    ]
    return {"servers": told, "kicked": kicked}


def big_farm() -> list[dict[str, Any]]:
    """Return 200 servers of one service: IPv6, a long name, a wide one, some that are not well."""
    found = [server(f"ts-frankfurt-{number:03}", sessions=10 + number % 5) for number in range(194)]
    for number, row in enumerate(found):
        row["address"] = f"10.20.{number // 100}.{number % 100 + 100}:3389"
    return [
        *found,
        server("ts-oslo", address="[2001:db8:1234:5678:9abc:def0:1234:5678]:33890"),
        server("terminal-server-of-the-branch-office-in-oslo-with-a-name-that-never-ends-" + "x" * 40),
        server("端末サーバー", state="drain", reason="operator: drain"),
        server("ts-down", health="down", reason="no answer within 2 s"),
        server("ts-agent", agent=agent(state="drain", reason="patch night"), state="drain"),
        server("sorry", backup=True, max_connections=50, sessions=50, queue=3),
    ]
