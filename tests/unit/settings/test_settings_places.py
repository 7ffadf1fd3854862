"""Every wrong value: the message, and the file, line, column and key that it points at."""

import pytest

from rdpbalancer.settings.load import ConfigurationErrors, Problem
from tests.unit.settings.farm import farm, problems, service

# A line of a service stands in line 4 of the file, its key in column 5.
SERVICE_CASES = [
    ("bind: x", "4:5: @.bind: unknown key 'bind'; did you mean 'listen'?"),
    ("balance: x", "4:5: @.balance: unknown key 'balance'; did you mean 'scheduler'?"),
    (
        "fallback_server: x",
        (
            "4:5: @.fallback_server: unknown key 'fallback_server'; a fallback server is one of real_servers"
            " with 'backup: true'"
        ),
    ),
    ("scheduller: source-hash", "4:5: @.scheduller: unknown key 'scheduller'; did you mean 'scheduler'?"),
    (
        "timeouts: {foo: 5s}",
        "4:16: @.timeouts.foo: unknown key 'foo'; the keys known here are confirm, connect,",
    ),
    (
        "<<: {mode: tcp}",
        "4:5: @.<<: unknown key '<<': YAML 1.2 has no merge keys; put what services share under 'defaults'",
    ),
    (
        '"a\\nb": 1',
        "4:5: @.'a\\nb': unknown key 'a\\nb'; the keys known here are accept_proxy, feedback_agent,",
    ),
    ("mode: udp", "4:11: @.mode: expected rdp or tcp, got 'udp'"),
    ("mode: rdb", "4:11: @.mode: expected rdp or tcp, got 'rdb'; did you mean 'rdp'?"),
    ("mode: [rdp]", "4:11: @.mode: expected rdp or tcp, got a list"),
    (
        "scheduler: least-connections",
        (
            "4:16: @.scheduler: expected weighted-least-connections, weighted-round-robin, source-hash,"
            " random-two-choices or first-available, got 'least-connections'; did you mean"
            " 'weighted-least-connections'?"
        ),
    ),
    ("on_down: drop", "4:14: @.on_down: expected keep or kick, got 'drop'"),
    ("send_proxy: true", "4:17: @.send_proxy: expected off, v1 or v2, got true"),
    (
        "require_security: tsl",
        "4:23: @.require_security: expected any, tls or nla, got 'tsl'; did you mean 'tls'?",
    ),
    ("redispatch: 17", "4:17: @.redispatch: must be at most 16, got 17"),
    ("redispatch: -1", "4:17: @.redispatch: must be at least 0, got -1"),
    ("redispatch: 1.5", "4:17: @.redispatch: expected a whole number, got '1.5'"),
    ('redispatch: "2"', "4:17: @.redispatch: expected a whole number, got '2': write 2"),
    ("redispatch: 02", "4:17: @.redispatch: expected a whole number, got '02': write 2"),
    ("redispatch: true", "4:17: @.redispatch: expected a whole number, got true"),
    ("redispatch: {}", "4:17: @.redispatch: expected a whole number, got a mapping (key: value)"),
    (
        "slow_start: 30",
        "4:17: @.slow_start: a duration needs a unit (ms, s, m, h, d): write 30s for 30 seconds",
    ),
    ("slow_start:", "4:5: @.slow_start: has no value: write one, or remove the key to get the default"),
    ("timeouts: 5s", "4:15: @.timeouts: expected a mapping (key: value), got '5s'"),
    ("timeouts:", "4:5: @.timeouts: has no value: write one, or remove the key to get the default"),
    ("timeouts: {idle: 0}", "4:22: @.timeouts.idle: must be at least 1ms, got the number 0"),
    ("health_check: {interval: 5ms}", "4:30: @.health_check.interval: must be at least 10ms, got '5ms'"),
    (
        "health_check: {observe: yes}",
        "4:29: @.health_check.observe: expected true or false, got 'yes': write true",
    ),
    (
        "health_check: {observe: Off}",
        "4:29: @.health_check.observe: expected true or false, got 'Off': write false",
    ),
    ("health_check: {observe: 1}", "4:29: @.health_check.observe: expected true or false, got the number 1"),
    ("health_check: {port: 0}", "4:26: @.health_check.port: must be at least 1, got 0"),
    ("health_check: {type: http}", "4:26: @.health_check.type: expected rdp, tcp or none, got 'http'"),
    ("feedback_agent: true", "4:21: @.feedback_agent: expected a mapping (key: value), got true"),
    ("feedback_agent: {prot: 1}", "4:22: @.feedback_agent.prot: unknown key 'prot'; did you mean 'port'?"),
    ("persistence: {methods: source-ip}", "4:28: @.persistence.methods: expected a list, got 'source-ip'"),
    (
        "persistence: {methods: [source-ip, cookie]}",
        (
            "4:40: @.persistence.methods[1]: expected routing-token, rdp-cookie or source-ip, got 'cookie';"
            " did you mean 'rdp-cookie'?"
        ),
    ),
    ("persistence: {max_entries: 0}", "4:32: @.persistence.max_entries: must be at least 1, got 0"),
    ("persistence: {ipv4_prefix: 33}", "4:32: @.persistence.ipv4_prefix: must be at most 32, got 33"),
    ("persistence: {min_user_chars: 10}", "4:35: @.persistence.min_user_chars: must be at most 9, got 10"),
    ("limits: {max_sessions: 1000001}", "4:28: @.limits.max_sessions: must be at most 1000000, got 1000001"),
    (
        "limits: {per_source: {rate: 20}}",
        "4:33: @.limits.per_source.rate: expected a rate such as 20/10s (0/10s: no limit), got the number 20",
    ),
    (
        "limits: {deny: [10.0.0.0/8, 10.0.0.1/8]}",
        "4:33: @.limits.deny[1]: '10.0.0.1/8' is an address inside a network: write 10.0.0.0/8 for all of it",
    ),
    (
        "accept_proxy: [lb1]",
        "4:20: @.accept_proxy[0]: expected a network such as 192.168.0.0/16 or fd00::/8, got 'lb1'",
    ),
]


@pytest.mark.parametrize(("line", "expected"), SERVICE_CASES)
def test_a_wrong_key_of_a_service(line: str, expected: str) -> None:
    """A wrong key is pointed at where it stands, a wrong value where that stands, each in plain words."""
    found = problems(farm(line))
    assert 1 == len(found)
    assert found[0].startswith("f:" + expected.replace("@", "virtual_services[0]"))


NAME_RULE = "expected a name of 1 to 64 letters, digits, dots, underscores and hyphens"
# `real_servers: [{` stands before a case, in line 4: its key is in column 21.
SERVER_CASES = [
    ("name: ts 1, address: ts1:1", f"27: #.name: {NAME_RULE}, got 'ts 1'"),
    ("name: '', address: ts1:1", f"27: #.name: {NAME_RULE}, got ''"),
    ("name: ä, address: ts1:1", f"27: #.name: {NAME_RULE}, got 'ä'"),
    (f"name: {'a' * 65}, address: ts1:1", f"27: #.name: {NAME_RULE}, got '{'a' * 57}...'"),
    ("name: [ts1], address: ts1:1", f"27: #.name: {NAME_RULE}, got a list"),
    ("name: true, address: ts1:1", f"27: #.name: {NAME_RULE}, got true"),
    ("address: ts1:1", "20: #.name: 'name' is missing: it has no default"),
    ("name: ts1", "20: #.address: 'address' is missing: it has no default"),
    ("name: ts1, address: ts1", "41: #.address: 'ts1' has no port: write 'ts1:3389'"),
    ("name: ts1, address: '::1:1'", "41: #.address: '::1:1': put an IPv6 address in brackets, such as"),
    ("name: ts1, address: ts1:1, weight: 257", "56: #.weight: must be at most 256, got 257"),
    (
        "name: ts1, address: ts1:1, maxconn: 5",
        "48: #.maxconn: unknown key 'maxconn'; did you mean 'max_connections'?",
    ),
    ("name: ts1, address: ts1:1, wieght: 5", "48: #.wieght: unknown key 'wieght'; did you mean 'weight'?"),
    ("name: ts1, address: ts1:1, backup: on", "56: #.backup: expected true or false, got 'on': write true"),
    (
        "name: ts1, address: ts1:1, token_addresses: ['ts1:3389']",
        "66: #.token_addresses[0]: 'ts1' is not an IP address, and a name is not possible here",
    ),
    (
        "name: ts1, address: ts1:1, health_check: {rise: 0}",
        "69: #.health_check.rise: must be at least 1, got 0",
    ),
    (
        "name: ts1, address: ts1:1, feedback_agent: {port: a}",
        "71: #.feedback_agent.port: expected a whole number, got 'a'",
    ),
]


@pytest.mark.parametrize(("keys", "expected"), SERVER_CASES)
def test_a_wrong_key_of_a_server(keys: str, expected: str) -> None:
    """A wrong value of a server is pointed at; a missing key is missed at the server's beginning."""
    (found,) = problems(farm(servers=f"real_servers: [{{{keys}}}]"))
    assert found.startswith("f:4:" + expected.replace("#", "virtual_services[0].real_servers[0]"))


LISTEN_CASES = [
    ("3389", "13: @: expected an address and port such as '192.168.2.190:3389', got the number 3389"),
    ('":3389"', "13: @: the address is missing: 0.0.0.0 stands for all of IPv4, [::] for all of IPv6"),
    ('["127.0.0.1:1", ts:3389]', "29: @[1]: 'ts' is not an IP address, and a name is not possible here"),
    ("{}", "13: @: expected a list, got a mapping (key: value)"),
    ("[]", "13: @: needs at least one entry"),
    ("", "5: @: has no value: write one, or remove the key to get the default"),
    ('["0.0.0.0:65536"]', "14: @[0]: port '65536' is not a number from 0 to 65535"),
]


@pytest.mark.parametrize(("value", "expected"), LISTEN_CASES)
def test_a_wrong_listen_address(value: str, expected: str) -> None:
    """A single address and each of a list are pointed at."""
    (found,) = problems("virtual_services:\n" + service(listen=value))
    assert f"f:3:{expected.replace('@', 'virtual_services[0].listen')}" == found


GLOBAL_CASES = [
    ("relays: 65", "11: relays: expected auto or a number from 0 to 64, got the number 65"),
    ("relays: many", "11: relays: expected auto or a number from 0 to 64, got 'many'"),
    ("relays: false", "11: relays: expected auto or a number from 0 to 64, got false"),
    ("state_dir: state", "14: state_dir: 'state' is relative: write the whole path, from / on"),
    ("state_dir: 5", "14: state_dir: expected a path such as /var/lib/rdpbalancer, got the number 5"),
    ('state_dir: "/a\\0b"', "14: state_dir: '/a\\x00b' has control characters in it"),
    (
        f"runtime_dir: /{'r' * 94}",
        "16: runtime_dir: longer than 94 bytes: the paths of the sockets in it would not fit",
    ),
    (
        "log: {level: warn}",
        "16: log.level: expected debug, info, warning or error, got 'warn'; did you mean 'warning'?",
    ),
    ("log: {user: true}", "15: log.user: expected plain, hash or off, got true"),
    ("log: {file: a.log}", "15: log.file: 'a.log' is relative: write the whole path, from / on"),
    (
        "metrics: {listen: 9389}",
        "21: metrics.listen: expected an address and port such as '192.168.2.190:3389',",
    ),
    ("metrics: null", "12: metrics: has no value: write one, or remove the key to get the default"),
    ("limits: {max_half_open: 0}", "27: limits.max_half_open: must be at least 1, got 0"),
    ("resolve_interval: 0", "21: resolve_interval: must be at least 10ms, got the number 0"),
    ("shutdown_timeout: -1", "21: shutdown_timeout: a duration needs a unit (ms, s, m, h, d): write -1s for"),
    (
        "control_socket_mode: 660",
        "24: control_socket_mode: expected the mode of a file in octal digits, such as '0660', got",
    ),
    ("control_socket_mode: '0668'", "24: control_socket_mode: expected the mode of a file in octal digits,"),
    ("relay: 5", "3: relay: unknown key 'relay'; did you mean 'relays'?"),
]


@pytest.mark.parametrize(("line", "expected"), GLOBAL_CASES)
def test_a_wrong_key_of_global(line: str, expected: str) -> None:
    """A wrong value of the balancer itself is pointed at."""
    (found,) = problems(farm(before=f"global:\n  {line}\n"))
    column, message = expected.split(": ", 1)
    assert found.startswith(f"f:2:{column}: global.{message}")


TOP_CASES = [
    ("", "1:1: the file is empty: a configuration has the keys global, defaults, virtual_services"),
    (
        "# nothing\n",
        "1:1: the file is empty: a configuration has the keys global, defaults, virtual_services",
    ),
    ("---\n", "1:1: the file is empty: a configuration has the keys global, defaults, virtual_services"),
    ("null", "1:1: the file is empty: a configuration has the keys global, defaults, virtual_services"),
    ("\n- a\n", "2:1: a configuration has the keys global, defaults, virtual_services; this is a list"),
    ("hello", "1:1: a configuration has the keys global, defaults, virtual_services; this is 'hello'"),
    ("${NO}", "1:1: the environment variable NO is not set: set it, or write ${NO:-default}"),
    ("{}", "1:1: virtual_services: 'virtual_services' is missing: it has no default"),
    ("global: {}", "1:1: virtual_services: 'virtual_services' is missing: it has no default"),
    ("virtual_services: []", "1:19: virtual_services: needs at least one entry"),
    ("virtual_services:", "1:1: virtual_services: expected a list, got nothing"),
    ("virtual_services: {a: 1}", "1:19: virtual_services: expected a list, got a mapping (key: value)"),
    ("virtual_services: [5]", "1:20: virtual_services[0]: expected a mapping (key: value), got the number 5"),
]


@pytest.mark.parametrize(("text", "expected"), TOP_CASES)
def test_a_file_that_is_none(text: str, expected: str) -> None:
    """What is no configuration at all is told at the place where that shows."""
    assert [f"f:{expected}"] == problems(text)


def test_sections_of_the_wrong_kind() -> None:
    """A section that is no mapping, and one that does not exist, are each told once."""
    found = problems(farm(before="global: []\ndefaults: 5\nfrontends: {}\n"))
    assert [
        "f:1:9: global: expected a mapping (key: value), got a list",
        "f:2:11: defaults: expected a mapping (key: value), got the number 5",
        (
            "f:3:1: frontends: unknown key 'frontends'; the keys known here are"
            " defaults, global, virtual_services"
        ),
    ] == found


def test_all_problems_at_once_in_the_order_of_the_file() -> None:
    """Nobody has to correct one mistake to be told of the next."""
    text = """\
global: {relays: 99}
defaults: {scheduler: none}
virtual_services:
  - name: a
    listen: 1
    mode: tpc
    real_servers:
      - {name: ts1, address: "10.0.0.1:1"}
      - {name: ts1, address: "10.0.0.1:1", weight: x}
      - {address: y}
    unknown: 1
  - name: a
"""
    keys = [line.split(": ")[0] + " " + line.split(": ")[1] for line in problems(text)]
    assert [
        "f:1:18 global.relays",
        "f:2:23 defaults.scheduler",
        "f:5:13 virtual_services[0].listen",
        "f:6:11 virtual_services[0].mode",
        "f:9:16 virtual_services[0].real_servers[1].name",
        "f:9:30 virtual_services[0].real_servers[1].address",
        "f:9:52 virtual_services[0].real_servers[1].weight",
        "f:10:9 virtual_services[0].real_servers[2].name",
        "f:10:19 virtual_services[0].real_servers[2].address",
        "f:11:5 virtual_services[0].unknown",
        "f:12:5 virtual_services[1].listen",
        "f:12:5 virtual_services[1].real_servers",
        "f:12:11 virtual_services[1].name",
    ] == keys


def test_a_list_of_wrong_entries_is_not_called_too_short() -> None:
    """Only the wrong entries are told, not the list that they leave empty."""
    assert [
        "f:4:20: virtual_services[0].real_servers[0]: expected a mapping (key: value), got 'ts1'"
    ] == problems(farm(servers="real_servers: [ts1]"))


def test_a_problem_is_a_value_with_its_parts() -> None:
    """The command line and an editor can use the parts of a problem; its text is what is printed."""
    problem = Problem("f.yaml", 3, 5, "global.log", "wrong")
    assert "f.yaml:3:5: global.log: wrong" == str(problem)
    assert "f.yaml:3:5: wrong" == str(problem._replace(path=""))
    errors = ConfigurationErrors([problem, problem])
    assert (problem, problem) == errors.problems
    assert "configuration" == errors.code
    assert "operator" == errors.fault
    assert f"{problem}\n{problem}" == str(errors)
