"""`rdpbalancer lab`: what its commands take, and what they refuse."""

import click
import pytest
from click.testing import CliRunner, Result

from rdpbalancer.cli.address import Address
from rdpbalancer.cli.demo import demo
from rdpbalancer.cli.lab import COMMANDS, lab
from rdpbalancer.model import Endpoint


def invoke(*args: str) -> Result:
    """Run a command of the group in this process."""
    return CliRunner().invoke(lab, args, obj={"quiet": False})


def test_the_commands_that_the_command_line_gets() -> None:
    """`demo`, and `lab` with its three parts."""
    assert ["demo", "lab"] == [command.name for command in COMMANDS]
    assert {"server", "client", "agent"} == set(lab.commands)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:3390", Endpoint("127.0.0.1", 3390)),
        ("127.0.0.1", Endpoint("127.0.0.1", 3389)),
        ("[::1]:3390", Endpoint("::1", 3390)),
        ("[::1]", Endpoint("::1", 3389)),
        ("::1", Endpoint("::1", 3389)),
        ("127.0.0.1:0", Endpoint("127.0.0.1", 0)),
    ],
)
def test_addresses(text: str, expected: Endpoint) -> None:
    """With a port or without."""
    assert expected == Address(3389).convert(text, None, None)
    assert expected == Address(3389).convert(expected, None, None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("localhost", Endpoint("localhost", 3389)),
        ("ts1.example.net:3390", Endpoint("ts1.example.net", 3390)),
        ("[::1]:3390", Endpoint("::1", 3390)),
    ],
)
def test_host_names_where_they_are_taken(text: str, expected: Endpoint) -> None:
    """Where the client connects to."""
    assert expected == Address(3389, names=True).convert(text, None, None)


@pytest.mark.parametrize("text", ["", "1.2.3:4", "a b", "a:b:c", "-x", "ts1:99999", "300.1.1.1"])
def test_what_is_no_host_name(text: str) -> None:
    """Half an address is none."""
    with pytest.raises(click.BadParameter, match="no address or host name"):
        Address(3389, names=True).convert(text, None, None)


@pytest.mark.parametrize(
    "text", ["", "ts1:3389", "127.0.0.1:65536", "127.0.0.1:-1", "127.0.0.1:x", "1.2.3:4"]
)
def test_what_is_no_address(text: str) -> None:
    """Names are none, where the lab listens."""
    with pytest.raises(click.BadParameter, match="no IP address and port"):
        Address(3389).convert(text, None, None)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("server", "--security", "telnet"), "unknown security 'telnet'; there are rdp"),
        (("server", "--behaviour", "dance"), "unknown behaviour 'dance'; there are echo"),
        (("server", "--fault", "gremlins"), "'gremlins' is not a valid LabFault"),
        (("server", "--name", "two words"), "one word"),
        (("server", "--agent-port", "65536"), "65536"),
        (("agent", "--mode", "shy"), "'shy' is not a valid AgentMode"),
        (("client", "127.0.0.1:3389"), "give --user NAME, or --users N"),
        (("client", "127.0.0.1:3389", "--user", "a", "--users", "2"), "give --user NAME, or --users N"),
        (("client", "some where", "--user", "a"), "no address or host name"),
        (("client", "127.0.0.1:3389", "--user", "a", "--hold", "soon"), "such as 500ms, 30s or 1h"),
        (("client", "--user", "a"), "ADDRESS"),
    ],
)
def test_wrong_usage(args: tuple[str, ...], said: str) -> None:
    """Exit status 2, and words that say what there is."""
    result = invoke(*args)
    assert (2, True) == (result.exit_code, said in result.output), result.output


@pytest.mark.parametrize("option", [("--users", "5"), ("--seed", "1"), ("--seconds", "3")])
def test_a_fixed_script_takes_no_chances(option: tuple[str, str]) -> None:
    """What `demo --once` would not heed is refused, not ignored."""
    result = CliRunner().invoke(demo, ["--once", *option], obj={"quiet": False})
    assert (2, True) == (result.exit_code, f"{option[0]} is not for --once" in result.output), result.output
