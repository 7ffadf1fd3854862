"""What services and servers inherit, and where a wrong value of `defaults` is pointed at."""

from ipaddress import ip_network

from rdpbalancer.model import Method, Mode
from rdpbalancer.settings.load import loads
from rdpbalancer.settings.schema import FeedbackAgentSettings
from tests.unit.settings.farm import farm, loaded, problems, service


def test_a_services_own_value_wins_and_mappings_merge_deep() -> None:
    """Each key is decided alone, at any depth; a list replaces the list."""
    item = loaded(
        farm(
            "limits: {per_source: {sessions: 5}, allow: [10.0.0.0/8]}",
            "on_down: keep",
            before="defaults:\n  on_down: kick\n  redispatch: 5\n"
            "  limits: {max_sessions: 7, per_source: {sessions: 1, half_open: 2}, allow: [192.168.0.0/16]}\n",
        )
    ).virtual_services[0]
    assert ("keep", 5) == (item.on_down, item.redispatch)
    assert (7, 5, 2) == (
        item.limits.max_sessions,
        item.limits.per_source.sessions,
        item.limits.per_source.half_open,
    )
    assert (ip_network("10.0.0.0/8"),) == item.limits.allow


def test_services_do_not_inherit_from_each_other() -> None:
    """What one service says stays with it."""
    text = farm("timeouts: {connect: 1s}", before="defaults: {timeouts: {queue: 9s}}\n")
    items = loaded(text + service(name="b", listen="127.0.0.1:1")).virtual_services
    assert [(1.0, 9.0), (5.0, 9.0)] == [(item.timeouts.connect, item.timeouts.queue) for item in items]


def test_a_wrong_default_is_told_once_and_in_defaults() -> None:
    """However many services inherit a wrong value, it is one problem, where it is written."""
    text = farm(before="defaults:\n  health_check: {rise: 0}\n  shceduler: x\n")
    assert [
        "f:2:24: defaults.health_check.rise: must be at least 1, got 0",
        "f:3:3: defaults.shceduler: unknown key 'shceduler'; did you mean 'scheduler'?",
    ] == problems(text + service(name="b", listen="127.0.0.1:1"))


def test_a_wrong_default_that_every_service_overrides_is_told() -> None:
    """`defaults` are checked for themselves: the next service would inherit them."""
    assert ["f:1:24: defaults.redispatch: expected a whole number, got 'x'"] == problems(
        farm("redispatch: 1", before="defaults: {redispatch: x}\n")
    )


def test_what_defaults_may_not_hold() -> None:
    """A name, an address and servers belong to one service; they are not inherited either."""
    assert [
        "f:1:12: defaults.name: 'name' belongs to each virtual service: it cannot be in defaults",
        "f:1:21: defaults.listen: 'listen' belongs to each virtual service: it cannot be in defaults",
        (
            "f:1:42: defaults.real_servers: 'real_servers' belongs to each virtual service: it cannot"
            " be in defaults"
        ),
        "f:3:5: virtual_services[0].listen: 'listen' is missing: it has no default",
        "f:3:5: virtual_services[0].real_servers: 'real_servers' is missing: it has no default",
    ] == problems(
        "defaults: {name: x, listen: '0.0.0.0:1', real_servers: []}\nvirtual_services:\n  - name: a\n"
    )


def test_mode_tcp_has_defaults_of_its_own() -> None:
    """A service that reads no RDP has no persistence and checks by connecting, unless it says otherwise."""
    item = loaded(farm("mode: tcp")).virtual_services[0]
    assert (Mode.TCP, (), "tcp", "tcp") == (
        item.mode,
        item.persistence.methods,
        item.health_check.type,
        item.real_servers[0].health_check.type,
    )
    item = loaded(
        farm(
            "persistence: {methods: [source-ip]}",
            "health_check: {type: none}",
            before="defaults: {mode: tcp}\n",
        )
    ).virtual_services[0]
    assert (Mode.TCP, (Method.SOURCE_IP,), "none") == (
        item.mode,
        item.persistence.methods,
        item.health_check.type,
    )


def test_servers_inherit_the_check_of_their_service() -> None:
    """A server says only what differs; what it does not say comes from the service, then from defaults."""
    servers = """real_servers:
      - {name: a, address: "10.0.0.1:1"}
      - {name: b, address: "10.0.0.2:1", health_check: {port: 99, fall: 9}}"""
    item = loaded(
        farm(
            "health_check: {type: tcp, fall: 5}",
            servers=servers,
            before="defaults: {health_check: {rise: 7}}\n",
        )
    ).virtual_services[0]
    checks = [server.health_check for server in item.real_servers]
    assert item.health_check == checks[0]
    assert [("tcp", 7, 5, None), ("tcp", 7, 9, 99)] == [
        (check.type, check.rise, check.fall, check.port) for check in checks
    ]


def test_a_wrong_check_of_the_service_is_told_once() -> None:
    """Its servers inherit the check, not its problem."""
    assert ["f:4:37: virtual_services[0].health_check.rise: must be at least 1, got 0"] == problems(
        farm("health_check: {type: tcp, rise: 0}")
    )


AGENTS = """real_servers:
      - {name: a, address: "10.0.0.1:1"}
      - {name: b, address: "10.0.0.2:1", feedback_agent: false}
      - {name: c, address: "10.0.0.3:1", feedback_agent: {port: 9}}
      - {name: d, address: "10.0.0.4:1", feedback_agent: null}
      - {name: e, address: "10.0.0.5:1", feedback_agent: {}}"""


def test_agents_of_servers() -> None:
    """A server takes the service's agent, changes it, or has none."""
    item = loaded(farm("feedback_agent: {interval: 5s}", servers=AGENTS)).virtual_services[0]
    common = FeedbackAgentSettings(interval=5.0)
    assert [common, None, FeedbackAgentSettings(interval=5.0, port=9), None, common] == [
        server.feedback_agent for server in item.real_servers
    ]


def test_agents_of_servers_of_a_service_without() -> None:
    """Without an agent of the service a server may have one of its own."""
    for line in ("", "feedback_agent: null", "feedback_agent: false"):
        item = loaded(farm(line, servers=AGENTS)).virtual_services[0]
        assert [None, None, FeedbackAgentSettings(port=9), None, FeedbackAgentSettings()] == [
            server.feedback_agent for server in item.real_servers
        ]


def test_a_service_can_turn_off_the_agent_of_defaults() -> None:
    """`null` and `false` say that there is none; `{}` adds nothing to what defaults say."""
    before = "defaults: {feedback_agent: {port: 9}}\n"
    agents = [
        loaded(farm(line, before=before)).virtual_services[0].feedback_agent
        for line in ("", "feedback_agent: null", "feedback_agent: false", "feedback_agent: {}")
    ]
    assert [FeedbackAgentSettings(port=9), None, None, FeedbackAgentSettings(port=9)] == agents


def test_environment_defaults_to_none() -> None:
    """`loads` sees no environment that it was not given."""
    assert "fallback" == loads(farm().replace("farm", "${HOME:-fallback}")).virtual_services[0].name
