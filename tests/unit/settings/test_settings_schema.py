"""The schema: defaults as documented, frozen, every field described, and its JSON form."""

import json
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from rdpbalancer.model import Endpoint, Method, Mode, Security
from rdpbalancer.settings import schema
from rdpbalancer.settings.units import Rate
from tests.unit.settings.farm import farm, loaded


def test_the_defaults_of_a_service() -> None:
    """A service that says only what it must has these values."""
    service = loaded(farm()).virtual_services[0]
    assert "farm" == service.name
    assert (Endpoint("0.0.0.0", 3389),) == service.listen
    assert Mode.RDP is service.mode
    assert "weighted-least-connections" == service.scheduler
    assert (
        schema.PersistenceSettings(
            methods=(Method.ROUTING_TOKEN, Method.RDP_COOKIE, Method.SOURCE_IP),
            timeout=3600.0,
            max_entries=100_000,
            when_full="wait",
            strip_domain=False,
            min_user_chars=1,
            ipv4_prefix=32,
            ipv6_prefix=64,
            collision_sources=8,
            on_collision="keep",
        )
        == service.persistence
    )
    assert (
        schema.HealthCheckSettings(
            type="rdp", interval=2.0, fast_interval=0.5, timeout=2.0, rise=2, fall=3, observe=True, port=None
        )
        == service.health_check
    )
    assert service.feedback_agent is None
    assert (
        schema.TimeoutSettings(handshake=5.0, connect=5.0, confirm=10.0, queue=30.0, idle=43200.0)
        == service.timeouts
    )
    assert (
        schema.LimitSettings(
            max_sessions=0,
            per_source=schema.PerSource(sessions=0, half_open=0, rate=Rate(0, 10.0)),
            allow=(),
            deny=(),
        )
        == service.limits
    )
    assert Security.ANY is service.require_security
    assert () == service.accept_proxy
    assert "off" == service.send_proxy
    assert 0.0 == service.slow_start
    assert "keep" == service.on_down
    assert 2 == service.redispatch


def test_the_defaults_of_a_server() -> None:
    """A server that says only what it must has these values, and its service's check."""
    server = loaded(farm()).virtual_services[0].real_servers[0]
    assert ("ts1", Endpoint("10.0.0.1", 3389)) == (server.name, server.address)
    assert (100, 0, False, ()) == (
        server.weight,
        server.max_connections,
        server.backup,
        server.token_addresses,
    )
    assert schema.HealthCheckSettings() == server.health_check
    assert server.feedback_agent is None
    assert (server.address,) == server.token_targets


def test_the_defaults_of_the_balancer() -> None:
    """Without `global` the balancer has these values."""
    settings = loaded(farm()).global_
    assert Path("/var/lib/rdpbalancer") == settings.state_dir
    assert Path("/run/rdpbalancer") == settings.runtime_dir
    assert "auto" == settings.relays
    assert schema.LogSettings(format="auto", level="info", user="hash", file=None) == settings.log
    assert Endpoint("127.0.0.1", 9389) == settings.metrics.listen
    assert 4096 == settings.limits.max_half_open
    assert (30.0, 10.0) == (settings.resolve_interval, settings.shutdown_timeout)
    assert "0660" == settings.control_socket_mode


def test_every_option_can_be_set() -> None:
    """Each option takes another value than its default."""
    before = """\
global:
  state_dir: /srv/state
  runtime_dir: /srv/run
  relays: 0
  log: {format: logfmt, level: debug, user: off, file: /var/log/rdpbalancer.log}
  metrics: {listen: null}
  limits: {max_half_open: 1}
  resolve_interval: 1m
  shutdown_timeout: 0
  control_socket_mode: 0600
"""
    settings = loaded(
        farm(
            "scheduler: source-hash",
            "persistence: {methods: [source-ip], timeout: 0, max_entries: 5, when_full: redispatch,",
            "  strip_domain: true, min_user_chars: 3, ipv4_prefix: 24, ipv6_prefix: 56,",
            "  collision_sources: 3, on_collision: next-method}",
            "health_check: {type: tcp, interval: 1s, fast_interval: 100ms, timeout: 1s, rise: 1, fall: 1,",
            "  observe: false, port: 3390}",
            "feedback_agent: {port: 4444, interval: 1s, timeout: 1s, stale_after: 5s}",
            "timeouts: {handshake: 1s, connect: 2s, confirm: 3s, queue: 0, idle: 1d}",
            "limits: {max_sessions: 9, per_source: {sessions: 2, half_open: 3, rate: 20/10s},",
            "  allow: [10.0.0.0/8], deny: [10.9.0.0/16, 'fd00::/8']}",
            "require_security: nla",
            "accept_proxy: [192.168.2.10]",
            "send_proxy: v2",
            "slow_start: 2m",
            "on_down: kick",
            "redispatch: 0",
            servers="real_servers: [{name: 7, address: 'ts1:3389', weight: 0, max_connections: 5, "
            "backup: true, token_addresses: ['10.0.0.191:3389']}]",
            before=before,
        )
    )
    assert schema.GlobalSettings(
        state_dir=Path("/srv/state"),
        runtime_dir=Path("/srv/run"),
        relays=0,
        log=schema.LogSettings(
            format="logfmt", level="debug", user="off", file=Path("/var/log/rdpbalancer.log")
        ),
        metrics=schema.MetricsSettings(listen=None),
        limits=schema.GlobalLimitSettings(max_half_open=1),
        resolve_interval=60.0,
        shutdown_timeout=0.0,
        control_socket_mode="0600",
    ) == (settings.global_)
    service = settings.virtual_services[0]
    agent = schema.FeedbackAgentSettings(port=4444, interval=1.0, timeout=1.0, stale_after=5.0)
    check = schema.HealthCheckSettings(
        type="tcp", interval=1.0, fast_interval=0.1, timeout=1.0, rise=1, fall=1, observe=False, port=3390
    )
    expected = schema.VirtualServiceSettings(
        name="farm",
        listen=(Endpoint("0.0.0.0", 3389),),
        scheduler="source-hash",
        persistence=schema.PersistenceSettings(
            methods=(Method.SOURCE_IP,),
            timeout=0.0,
            max_entries=5,
            when_full="redispatch",
            strip_domain=True,
            min_user_chars=3,
            ipv4_prefix=24,
            ipv6_prefix=56,
            collision_sources=3,
            on_collision="next-method",
        ),
        health_check=check,
        feedback_agent=agent,
        timeouts=schema.TimeoutSettings(handshake=1.0, connect=2.0, confirm=3.0, queue=0.0, idle=86400.0),
        limits=schema.LimitSettings(
            max_sessions=9,
            per_source=schema.PerSource(sessions=2, half_open=3, rate=Rate(20, 10.0)),
            allow=(ip_network("10.0.0.0/8"),),
            deny=(ip_network("10.9.0.0/16"), ip_network("fd00::/8")),
        ),
        require_security=Security.NLA,
        accept_proxy=(ip_network("192.168.2.10/32"),),
        send_proxy="v2",
        slow_start=120.0,
        on_down="kick",
        redispatch=0,
        real_servers=(
            schema.RealServerSettings(
                name="7",
                address=Endpoint("ts1", 3389),
                weight=0,
                max_connections=5,
                backup=True,
                token_addresses=(Endpoint("10.0.0.191", 3389),),
                health_check=check,
                feedback_agent=agent,
            ),
        ),
    )
    assert expected == service
    assert (Endpoint("ts1", 3389), Endpoint("10.0.0.191", 3389)) == service.real_servers[0].token_targets


def test_values_cannot_be_changed() -> None:
    """A configuration in use is never altered: a reload makes a new one."""
    settings = loaded(farm())
    with pytest.raises(ValidationError, match="frozen"):
        settings.virtual_services[0].real_servers[0].weight = 5


def _objects(node: Any) -> list[dict[str, Any]]:
    if isinstance(node, list):
        return [found for item in node for found in _objects(item)]
    if not isinstance(node, dict):
        return []
    own = [node] if "properties" in node else []
    return own + [found for item in node.values() for found in _objects(item)]


def test_every_field_of_the_json_schema_is_described() -> None:
    """An editor can say something about each key, and refuses unknown ones."""
    written = schema.json_schema()
    objects = _objects(written)
    assert 14 == len(objects)
    for found in objects:
        assert found["additionalProperties"] is False
        for key, field in found["properties"].items():
            assert len(field.get("description", "")) > 10, (found["title"], key)


def test_the_json_schema_is_that_of_the_file() -> None:
    """The three keys of the file, defaults as they are written, and nothing that JSON cannot hold."""
    written = json.loads(json.dumps(schema.json_schema()))
    assert {"global", "defaults", "virtual_services"} == set(written["properties"])
    assert ["virtual_services"] == written["required"]
    definitions = written["$defs"]
    assert "12h" == definitions["TimeoutSettings"]["properties"]["idle"]["default"]
    assert "0/10s" == definitions["PerSource"]["properties"]["rate"]["default"]
    assert "127.0.0.1:9389" == definitions["MetricsSettings"]["properties"]["listen"]["default"]
    assert "/var/lib/rdpbalancer" == definitions["GlobalSettings"]["properties"]["state_dir"]["default"]
    assert ["name", "listen", "real_servers"] == definitions["VirtualServiceSettings"]["required"]
    assert not {"name", "listen", "real_servers"} & set(definitions["ServiceDefaults"]["properties"])
    assert {"const": False} in definitions["RealServerSettings"]["properties"]["feedback_agent"]["anyOf"]


def test_known_keys_follow_a_path_of_the_file() -> None:
    """The keys of any mapping of the file can be told, through lists and optional mappings."""
    assert ["global", "virtual_services", "defaults"] == schema.known_keys(())
    path = ("virtual_services", 3, "real_servers", 0, "feedback_agent")
    assert ["port", "interval", "timeout", "stale_after"] == schema.known_keys(path)
    assert [] == schema.known_keys(("global", "nothing", "here"))
