"""From the configuration to the farm: every option arrives in its own place, in its own unit."""

import dataclasses
from collections.abc import Iterator
from ipaddress import ip_network
from typing import Any

from pydantic import BaseModel

from rdpbalancer.core.farm import (
    AgentPolicy,
    Farm,
    HealthPolicy,
    Limits,
    PersistencePolicy,
    RealServer,
    Timeouts,
    VirtualService,
)
from rdpbalancer.model import Endpoint, Method, Mode, Security, ServerId
from rdpbalancer.settings.farm_builder import farm_of
from rdpbalancer.settings.schema import Settings
from tests.unit.settings.farm import loaded

# No two numbers are the same, and no value is the default.
_TEXT = """
virtual_services:
  - name: farm
    listen: ["10.0.0.1:3391", "[fd00::1]:3392"]
    scheduler: source-hash
    persistence:
      methods: [rdp-cookie, source-ip]
      timeout: 11m
      max_entries: 12
      when_full: redispatch
      strip_domain: true
      min_user_chars: 3
      ipv4_prefix: 24
      ipv6_prefix: 48
      collision_sources: 14
      on_collision: next-method
    timeouts: {handshake: 21s, connect: 22s, confirm: 23s, queue: 24s, idle: 25s}
    limits:
      max_sessions: 31
      per_source: {sessions: 32, half_open: 33, rate: 34/35s}
      allow: [10.1.0.0/16, "fd01::/16"]
      deny: [10.1.2.0/24]
    require_security: nla
    accept_proxy: [10.9.0.0/24]
    send_proxy: v1
    slow_start: 41s
    on_down: kick
    redispatch: 5
    health_check:
      {type: none, interval: 81s, fast_interval: 8200ms, timeout: 8300ms, rise: 84, fall: 85, observe: false,
       port: 86}
    feedback_agent: {port: 91, interval: 92s, timeout: 93s, stale_after: 94s}
    real_servers:
      - name: ts1
        address: "10.0.0.2:3393"
        weight: 51
        max_connections: 53
        min_connections: 52
        backup: true
        token_addresses: ["10.0.0.3:3394"]
        health_check:
          {type: tcp, interval: 61s, fast_interval: 6200ms, timeout: 6300ms, rise: 64, fall: 65,
           observe: false, port: 66}
        feedback_agent: {port: 71, interval: 72s, timeout: 73s, stale_after: 74s}
      - {name: ts2, address: "ts2.example:3395"}
  - name: gateway
    mode: tcp
    listen: "10.0.0.1:443"
    send_proxy: v2
    real_servers: [{name: g, address: "10.0.0.4:443"}]
"""
_FARM = VirtualService(
    name="farm",
    listen=(Endpoint("10.0.0.1", 3391), Endpoint("fd00::1", 3392)),
    servers=(
        RealServer(
            id=ServerId("farm", "ts1"),
            address=Endpoint("10.0.0.2", 3393),
            weight=51,
            max_connections=53,
            min_connections=52,
            backup=True,
            token_addresses=(Endpoint("10.0.0.3", 3394),),
            health=HealthPolicy("tcp", 61, 6.2, 6.3, 64, 65, observe=False, port=66),
            agent=AgentPolicy(71, 72, 73, 74),
        ),
        RealServer(
            id=ServerId("farm", "ts2"),
            address=Endpoint("ts2.example", 3395),
            health=HealthPolicy("none", 81, 8.2, 8.3, 84, 85, observe=False, port=86),
            agent=AgentPolicy(91, 92, 93, 94),
        ),
    ),
    scheduler="source-hash",
    persistence=PersistencePolicy(
        methods=(Method.RDP_COOKIE, Method.SOURCE_IP),
        timeout_s=660,
        max_entries=12,
        wait_when_full=False,
        strip_domain=True,
        min_user_chars=3,
        ipv4_prefix=24,
        ipv6_prefix=48,
        collision_sources=14,
        collision_next_method=True,
    ),
    timeouts=Timeouts(handshake_s=21, connect_s=22, confirm_s=23, queue_s=24, idle_s=25),
    limits=Limits(
        max_sessions=31,
        source_sessions=32,
        source_half_open=33,
        source_rate=34,
        source_rate_interval_s=35,
        allow=(ip_network("10.1.0.0/16"), ip_network("fd01::/16")),
        deny=(ip_network("10.1.2.0/24"),),
    ),
    require_security=Security.NLA,
    accept_proxy=(ip_network("10.9.0.0/24"),),
    send_proxy=1,
    slow_start_s=41,
    kick_on_down=True,
    redispatch=5,
)
# Shown by the second service, for a service of mode tcp reads nothing of what the others are about.
_ELSEWHERE = {"VirtualService.mode"}


def _built() -> Farm:
    return farm_of(loaded(_TEXT))


def test_every_option_arrives_in_its_place() -> None:
    """All of them at once, each with a value of its own: two that were mixed up would be seen."""
    assert _FARM == _built().services["farm"]


def test_the_other_kind_of_service() -> None:
    """Mode tcp, with its own defaults: no persistence, and a check that only connects."""
    gateway = _built().services["gateway"]
    (server,) = gateway.servers
    assert (Mode.TCP, (), "tcp", 2) == (
        gateway.mode,
        gateway.persistence.methods,
        server.health.type,
        gateway.send_proxy,
    )


def _left_at_default(value: object) -> Iterator[str]:
    """Yield the fields of a dataclass, and of those in it, that have their default."""
    assert dataclasses.is_dataclass(value)
    for each in dataclasses.fields(value):
        found = getattr(value, each.name)
        if found == each.default:
            yield f"{type(value).__name__}.{each.name}"
        parts = found[:1] if isinstance(found, tuple) else (found,)
        for part in parts:
            if dataclasses.is_dataclass(part):
                yield from _left_at_default(part)


def _unwritten(model: BaseModel) -> Iterator[str]:
    """Yield the options of a part of the configuration, and of those in it, that were not written."""
    for name in type(model).model_fields:
        if name not in model.model_fields_set:
            yield f"{type(model).__name__}.{name}"
        found: Any = getattr(model, name)
        for part in found[:1] if isinstance(found, tuple | list) else [found]:
            if isinstance(part, BaseModel):
                yield from _unwritten(part)


def test_a_new_field_of_the_farm_comes_from_the_configuration() -> None:
    """One that nothing fills would have its default for ever."""
    assert _ELSEWHERE == set(_left_at_default(_built().services["farm"]))


def test_a_new_option_is_in_this_test() -> None:
    """One that is accepted and goes nowhere is not noticed by anything else."""
    settings: Settings = loaded(_TEXT)
    unwritten = {name.replace("Settings", "") for name in _unwritten(settings.virtual_services[0])}
    assert _ELSEWHERE == unwritten
