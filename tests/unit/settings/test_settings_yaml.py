"""The reader: YAML 1.2 as a configuration needs it, syntax errors with their place, bounds."""

import pytest

from rdpbalancer.model import Endpoint
from rdpbalancer.settings.reader import MAX_NODES, scalar_value
from tests.unit.settings.farm import farm, loaded, problems, service


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("~", None),
        ("null", None),
        ("true", True),
        ("FALSE", False),
        ("yes", "yes"),
        ("off", "off"),
        ("0", 0),
        ("-5", -5),
        ("+5", 5),
        ("0x10", 16),
        ("0o17", 15),
        ("0660", "0660"),
        ("1_000", "1_000"),
        ("1.5", "1.5"),
        ("12:30", "12:30"),
        ("9" * 18, int("9" * 18)),
        ("9" * 19, "9" * 19),
    ],
)
def test_plain_scalars(text: str, value: object) -> None:
    """YAML 1.2 decides what a word without quotes means; a leading zero leaves a number text."""
    assert value == scalar_value(text)
    assert type(value) is type(scalar_value(text))


SYNTAX_CASES = [
    (
        "global: [1",
        "1:11: not YAML: expected ',' or ']', but got '<stream end>' while parsing a flow sequence",
    ),
    (
        "global:\n\trelays: 1",
        (
            "2:1: not YAML: found character '\\t' that cannot start any token while scanning for"
            " the next token;"
            " indent with spaces, not with tabs"
        ),
    ),
    ("a: b: c", "1:5: not YAML: mapping values are not allowed here"),
    (
        "listen: [::]:3389",
        (
            "1:13: not YAML: expected <block end>, but found '<scalar>' while parsing a block mapping;"
            " put an address that begins with a bracket in quotes"
        ),
    ),
    ("a: 'x", "1:6: not YAML: found unexpected end of stream while scanning a quoted scalar"),
    ('a: "\\UFFFFFFFF"', "1:2: not YAML: what follows here cannot be read"),
    ("a: 1\nb: \x00", "2:4: not YAML: the character '\\x00' may not stand in a file"),
    ("%YAML 1.1\n---\na: 1", "1:1: the file is read as YAML 1.2: remove this line"),
    ("a: 1\n---\nb: 1", "2:1: a second document begins here: a file holds one, remove the '---'"),
    ("a: !!str 1", "1:4: a: tags are not used here: remove 'tag:yaml.org,2002:str'"),
    ("a: ! 1", "1:4: a: tags are not used here: remove '!'"),
    ("a: !x {b: 1}", "1:4: a: tags are not used here: remove '!x'"),
    ("a: *x", "1:4: a: the alias *x has no anchor before it: quote a value that begins with *"),
    ("a: &x [*x]", "1:8: a[0]: the alias *x has no anchor before it: quote a value that begins with *"),
    ("{a: 1, [b]: 2}", "1:8: a key is a single word, not a list, a mapping or an alias"),
    ("a: &x 1\n*x : 2", "2:1: a key is a single word, not a list, a mapping or an alias"),
    ("[" * 5000, "1:34: nested deeper than 32 levels: no key is"),
]


@pytest.mark.parametrize(("text", "expected"), SYNTAX_CASES)
def test_what_cannot_be_read(text: str, expected: str) -> None:
    """A file that is not YAML, or more of YAML than is used here, ends in one problem at its place."""
    assert [f"f:{expected}"] == problems(text)


def test_duplicate_keys_do_not_hide_other_problems() -> None:
    """A key that stands twice is told with the place of the first, and the reading goes on."""
    assert [
        "f:5:5: virtual_services[0].mode: duplicate key: already set at f:4:5; keep one of the two",
        "f:6:17: virtual_services[0].redispatch: must be at most 16, got 99",
        "f:7:5: virtual_services[0].mode: duplicate key: already set at f:4:5; keep one of the two",
    ] == problems(farm("mode: rdp", "mode: tcp", "redispatch: 99", "mode: nonsense"))


def test_an_empty_value_points_at_its_key() -> None:
    """A key without a value is pointed at itself, wherever the next line stands."""
    (found,) = problems(farm("scheduler:", "", "", "mode: rdp"))
    assert (
        "f:4:5: virtual_services[0].scheduler: has no value: write one, or remove the key to get the default"
        == found
    )


def test_yaml_1_2_is_accepted_when_it_is_said() -> None:
    """The directive of the version that is read does no harm, nor does an end of the document."""
    assert "farm" == loaded(f"%YAML 1.2\n---\n{farm()}...\n").virtual_services[0].name


def test_anchors_and_aliases() -> None:
    """A value may be written once and used twice; its problems are told once, where it is written."""
    text = farm("timeouts: &slow {connect: 9s}") + service("timeouts: *slow", name="b", listen='"0.0.0.0:1"')
    assert [9.0, 9.0] == [item.timeouts.connect for item in loaded(text).virtual_services]
    assert ["f:4:31: virtual_services[0].timeouts.connect: must be at least 1ms, got '0s'"] == problems(
        text.replace("9s", "0s")
    )


def test_aliases_that_multiply_are_stopped() -> None:
    """Thirty lines cannot become a billion values."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 30)]
    (found,) = problems("\n".join(lines))
    assert found.startswith("f:5:")
    assert found.endswith(f"more than {MAX_NODES} values up to here: this is not the file that is meant")


def test_a_text_beyond_the_bound() -> None:
    """A megabyte is the most that is read."""
    assert ["f:1:1: longer than 1024 KiB: this is not the file that is meant"] == problems(
        farm() + "#" * 1024 * 1024
    )


def test_windows_line_endings() -> None:
    """A file of a Windows editor is read, and its places are right."""
    assert (Endpoint("0.0.0.0", 3389),) == loaded(farm().replace("\n", "\r\n")).virtual_services[0].listen
    (found,) = problems(farm("mode: x").replace("\n", "\r\n"))
    assert "f:4:11: virtual_services[0].mode: expected rdp or tcp, got 'x'" == found
