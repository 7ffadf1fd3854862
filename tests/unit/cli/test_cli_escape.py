"""What strangers said, harmless on a terminal."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdpbalancer.cli.escape import escaped, escaped_lines, json_text

HOSTILE = {
    "\x1b[31m": "\\x1b[31m",
    "\x9b31m": "\\x9b31m",
    "\x7f": "\\x7f",
    "\u202egnp": "\\u202egnp",
    "\u2066a\u2069": "\\u2066a\\u2069",
    "a\u2028b\u2029c": "a\\u2028b\\u2029c",
    "\x85": "\\x85",
    "\ufeff": "\\ufeff",
    "\U000e0041": "\\U000e0041",
    "\udcff": "\\udcff",
    "a\tb\nc\r": "a\\tb\\nc\\r",
}


@pytest.mark.parametrize(("text", "expected"), HOSTILE.items())
def test_what_steers_a_terminal_is_an_escape(text: str, expected: str) -> None:
    """C0, DEL, C1, bidirectional overrides and isolates, line and paragraph separators, lone surrogates."""
    assert expected == escaped(text)


@pytest.mark.parametrize(
    "text", ["", "alice", "EXAMPLE\\bob", "Zoë", "用户", "мария", "\N{GRINNING FACE}", "a b"]
)
def test_names_of_people_stay_as_they_are(text: str) -> None:
    """A backslash is the one between domain and user."""
    assert text == escaped(text) == escaped_lines(text)


def test_messages_keep_their_lines() -> None:
    """A message of several lines is one on a terminal too; nothing else of it steers."""
    assert "a\nb\\x1bc\\r\n" == escaped_lines("a\nb\x1bc\r\n")


@given(st.text())
def test_escaped_text_is_one_printable_line(text: str) -> None:
    """Whatever comes."""
    assert escaped(text).isprintable()


@given(
    st.recursive(
        st.text() | st.none() | st.integers(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_json_for_a_terminal_is_the_same_value(value: object) -> None:
    """It is valid JSON, and says exactly what it would in a pipe."""
    for indent in (None, 2):
        text = json_text(value, indent=indent)
        assert value == json.loads(text)
        assert text.replace("\n", "").isprintable()


@pytest.mark.parametrize("text", HOSTILE)
def test_json_for_a_terminal_steers_nothing(text: str) -> None:
    """The characters that JSON allows and a terminal acts on are written as JSON's own escapes."""
    assert json_text({"user": text}).isprintable()
