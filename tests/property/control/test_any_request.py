"""Requests with any parameters: each has an answer, and none of them is a defect."""

import asyncio
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdpbalancer.control.protocol import MAX_REQUEST_BYTES, ControlRequest, encode
from tests.fuzz.control import Service, check_answers, check_control

VERBS = sorted(Service.verbs())
NAMES = sorted({name for signature in Service.verbs().values() for name in signature})

_words = st.sampled_from(
    [
        "ts1",
        "ts2",
        "gw",
        "gw/ts1",
        "ts*",
        "[",
        "alice",
        "corp\\alice",
        "drain",
        "online",
        "source-ip",
        "::/0",
        "",
        " ",
    ]
)
_plain = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(allow_nan=False), st.text(), _words
)
_values = st.one_of(
    _plain, _words, st.lists(_plain, max_size=3), st.dictionaries(st.text(), _plain, max_size=2)
)


@given(
    verb=st.sampled_from(VERBS),
    params=st.dictionaries(st.sampled_from(NAMES), _values, max_size=5),
)
def test_any_parameters(verb: str, params: dict[str, Any]) -> None:
    """Right by name, anything by value: what is no use is refused with a code and words."""
    try:
        line = encode(ControlRequest(verb, params))
    except (UnicodeEncodeError, msgspec.MsgspecError, OverflowError):
        return  # what JSON cannot say nobody can send
    if len(line) < MAX_REQUEST_BYTES:
        check_control(line)


@pytest.mark.parametrize("name", ["user", "server", "service", "source", "session", "key", "method"])
@pytest.mark.parametrize("nothing", ["", " ", "\t"])
@pytest.mark.parametrize("verb", VERBS)
def test_an_empty_name_is_refused(verb: str, name: str, nothing: str) -> None:
    """A script's unset variable kicks nobody, moves nobody, and shows no list."""
    if name not in Service.verbs()[verb]:
        return
    given_ = {"state": "drain", "server": "ts1", "key": "corp\\alice", "weight": 5}
    params = {each: word for each, word in given_.items() if each in Service.verbs()[verb]}

    async def ask() -> list[dict[str, Any]]:
        service = Service()
        answers = await service.say(encode(ControlRequest(verb, {**params, name: nothing})))
        check_answers(b"\n", answers, service.errors)
        assert ([], 3) == (service.balancer.kicked, len(service.balancer.dispatcher.ledger))
        return answers

    (answer,) = asyncio.run(ask())
    assert ("bad-parameters", False) == (answer["error"]["code"], answer["ok"])
    assert f"{name}: it is empty" in answer["error"]["message"]


@given(depth=st.integers(1, 30_000), opening=st.sampled_from([b"[", b'{"a":', b'[{"":']))
def test_deeply_nested_json_is_refused(depth: int, opening: bytes) -> None:
    """Deeply nested JSON is no request, and no traceback."""
    nested = opening * depth
    if len(nested) < MAX_REQUEST_BYTES - 100:
        check_control(b'{"verb":"kick","params":' + nested + b"\n")
