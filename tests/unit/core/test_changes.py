"""What a reload changes, in the configuration's own words."""

from dataclasses import replace
from ipaddress import ip_network

import pytest

from rdpbalancer.core.changes import details, differences
from rdpbalancer.core.farm import (
    AgentPolicy,
    Farm,
    HealthPolicy,
    Limits,
    PersistencePolicy,
    RealServer,
    Timeouts,
    VirtualService,
    diff,
)
from rdpbalancer.model import Endpoint, Method, ServerId

TS1 = RealServer(ServerId("ts", "ts1"), Endpoint("192.0.2.10", 3389))
SERVICE = VirtualService("ts", (Endpoint("0.0.0.0", 3389),), (TS1,))


@pytest.mark.parametrize(
    ("new", "expected"),
    [
        ({"weight": 50}, ["weight 100 -> 50"]),
        ({"address": Endpoint("2001:db8::1", 3390)}, ["address 192.0.2.10:3389 -> [2001:db8::1]:3390"]),
        ({"backup": True, "max_connections": 9}, ["max_connections 0 -> 9", "backup false -> true"]),
        ({"token_addresses": (Endpoint("10.0.0.1", 3389),)}, ["token_addresses none -> 10.0.0.1:3389"]),
        ({"health": HealthPolicy(interval_s=5.0, type="tcp")},
         ["health_check.type rdp -> tcp", "health_check.interval 2s -> 5s"]),
        ({"agent": AgentPolicy()}, ["feedback_agent none -> as configured"]),
        ({}, []),
    ],
)  # fmt: skip
def test_what_differs_of_a_server(new: dict[str, object], expected: list[str]) -> None:
    """Old and new value of each key."""
    assert expected == list(differences(TS1, replace(TS1, **new)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("new", "expected"),
    [
        ({"scheduler": "first-available"}, ["scheduler weighted-least-connections -> first-available"]),
        ({"timeouts": Timeouts(idle_s=60)}, ["timeouts.idle 43200s -> 60s"]),
        ({"kick_on_down": True}, ["on_down keep -> kick"]),
        ({"persistence": PersistencePolicy(methods=(Method.SOURCE_IP,), wait_when_full=False)},
         ["persistence.methods routing-token, rdp-cookie, source-ip -> source-ip",
          "persistence.when_full wait -> redispatch"]),
        ({"limits": Limits(deny=(ip_network("10.0.0.0/8"),))}, ["limits.deny none -> 10.0.0.0/8"]),
        ({"servers": (replace(TS1, weight=5),)}, []),
    ],
)  # fmt: skip
def test_what_differs_of_a_service(new: dict[str, object], expected: list[str]) -> None:
    """Its servers are told apart."""
    assert expected == list(differences(SERVICE, replace(SERVICE, **new)))  # type: ignore[arg-type]


def test_details_of_a_reload() -> None:
    """By name, servers and services; a service of which only a server differs says nothing of its own."""
    old = Farm({"ts": SERVICE})
    new = Farm({"ts": replace(SERVICE, servers=(replace(TS1, weight=5),))})
    assert {"ts/ts1": ["weight 100 -> 5"]} == details(diff(old, new), old, new)
    new = Farm({"ts": replace(SERVICE, redispatch=1)})
    assert {"ts": ["redispatch 2 -> 1"]} == details(diff(old, new), old, new)


def test_a_large_reload_has_the_first_fifty() -> None:
    """A thousand would be one log line."""
    servers = tuple(replace(TS1, id=ServerId("ts", f"ts{number}")) for number in range(1000))
    old = Farm({"ts": replace(SERVICE, servers=servers)})
    new = Farm({"ts": replace(SERVICE, servers=tuple(replace(server, weight=1) for server in servers))})
    assert 50 == len(details(diff(old, new), old, new))
