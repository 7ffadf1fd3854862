"""What holds for every text and every value of a configuration."""

import contextlib
import ipaddress
import string
import tempfile
from pathlib import Path

from hypothesis import example, given
from hypothesis import strategies as st

from rdpbalancer.model import Endpoint
from rdpbalancer.settings.load import ConfigurationErrors, load, loads
from rdpbalancer.settings.units import (
    MAX_DURATION_S,
    Rate,
    format_duration,
    parse_duration_s,
    parse_endpoint,
    parse_network,
    parse_rate,
)

SAMPLE = (Path(__file__).parents[3] / "config" / "rdpbalancer.yaml").read_text()

durations_ms = st.integers(0, int(MAX_DURATION_S * 1000))
labels = st.text(string.ascii_lowercase + string.digits + "_", min_size=1, max_size=20)
names = st.lists(labels, min_size=1, max_size=4).map(".".join).filter(lambda name: not name[-1].isdigit())
hosts = st.ip_addresses().map(str) | names
words = st.sampled_from(
    [
        "global",
        "defaults",
        "virtual_services",
        "name",
        "listen",
        "real_servers",
        "address",
        "weight",
        "mode",
        "tcp",
        "rdp",
        "methods",
        "persistence",
        "health_check",
        "feedback_agent",
        "type",
        "${A}",
        "${B:-c}",
        "${file:x}",
        "$$",
        "0.0.0.0:1",
        "'[::]:1'",
        "ts1:1",
        "1s",
        "0",
        "-1",
        "1.5",
        "null",
        "true",
        "&a",
        "*a",
        "!t",
        "<<",
        "---",
        "...",
        "%",
        "@",
        "|",
        ">",
        "[",
        "]",
        "{",
        "}",
        ",",
        ":",
        "-",
        "?",
        "#",
        "'",
        '"',
        "\n",
    ]
)
yaml_like = st.lists(
    words | st.sampled_from(["\n", "\n  ", "\n  - ", ": ", " ", "{", "}", "[", "]", ", "])
).map("".join)


def never_anything_else(text: str) -> None:
    """Load `text`; the only thing that may happen is ConfigurationErrors, with places that exist."""
    errors = None
    try:
        loads(text, name="f", environ={"A": "x"})
    except ConfigurationErrors as raised:
        errors = raised
    if errors is None:
        return
    assert errors.problems
    lines = len(text.splitlines())
    for problem in errors.problems:
        assert problem.message
        assert "f" == problem.file
        assert 1 <= problem.line <= lines + 1
        assert 1 <= problem.column <= len(text) + 1
    assert len(str(errors).splitlines()) == len(errors.problems)
    str(errors).encode()


@given(durations_ms)
def test_durations_round_trip(milliseconds: int) -> None:
    """A duration of whole milliseconds is shown as it may be written."""
    assert milliseconds / 1000 == parse_duration_s(format_duration(milliseconds / 1000))


@given(st.integers(1, 65535), hosts)
def test_endpoints_round_trip(port: int, host: str) -> None:
    """An address is shown as it may be written."""
    endpoint = parse_endpoint(str(Endpoint(host, port)), names=True, listening=True)
    assert Endpoint(host, port) == endpoint
    assert endpoint == parse_endpoint(str(endpoint), names=True, listening=True)


@given(st.integers(0, 1_000_000), st.integers(1, 10**7))
def test_rates_round_trip(count: int, milliseconds: int) -> None:
    """A rate is shown as it may be written."""
    rate = Rate(count, milliseconds / 1000)
    assert rate == parse_rate(str(rate))


@given(st.ip_addresses(), st.integers(0, 128))
def test_networks_round_trip(address: ipaddress.IPv4Address | ipaddress.IPv6Address, prefix: int) -> None:
    """A network is shown as it may be written."""
    network = ipaddress.ip_network(f"{address}/{min(prefix, address.max_prefixlen)}", strict=False)
    assert network == parse_network(str(network))


@given(st.text())
def test_units_raise_only_value_errors(text: str) -> None:
    """Whatever stands in a value, it is read or refused with a text for the administrator."""
    for parse in (parse_duration_s, parse_rate, parse_network):
        with contextlib.suppress(ValueError):
            parse(text)
    for names_too in (True, False):
        with contextlib.suppress(ValueError):
            parse_endpoint(text, names=names_too)


@example('a: "\\UFFFFFFFF"')
@example("%YAML 1.2\n%YAML 1.2\n---\n")
@example("%TAG ! x\n---\n!x")
@example("? \n: \n?")
@example("\ufeff- \x85 \u2028")
@given(st.text())
def test_arbitrary_text_is_loaded_or_refused(text: str) -> None:
    """No text raises anything but ConfigurationErrors."""
    never_anything_else(text)


@given(yaml_like)
def test_text_that_resembles_yaml_is_loaded_or_refused(text: str) -> None:
    """Nor does a text of YAML's own signs and of our keys."""
    never_anything_else(text)


@given(st.data())
def test_a_damaged_sample_is_loaded_or_refused(data: st.DataObject) -> None:
    """Nor does a good file with a piece cut out and something else in its place."""
    start = data.draw(st.integers(0, len(SAMPLE)))
    end = data.draw(st.integers(start, min(len(SAMPLE), start + 200)))
    never_anything_else(SAMPLE[:start] + data.draw(words | st.text(max_size=5)) + SAMPLE[end:])


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_loaded_or_refused(content: bytes) -> None:
    """Nor does a file of any bytes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "f.yaml"
        path.write_bytes(content)
        with contextlib.suppress(ConfigurationErrors):
            load(path, environ={})
