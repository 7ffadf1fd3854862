"""Arbitrary and nearly right bytes: every parser answers or refuses, once and for all."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.__main__ import SEEDS, main, mutate
from tests.fuzz.targets import TARGETS, check_confirm, check_proxy, check_request, check_token


@given(data=st.binary(max_size=300))
def test_any_bytes(data: bytes) -> None:
    """Whatever arrives, nothing but a value, None or the documented refusal comes out."""
    for target in TARGETS.values():
        target(data)


@given(variable=st.binary(max_size=248))
def test_any_variable_part(variable: bytes) -> None:
    """Whatever stands inside consistent framing, the request or confirm is complete and read."""
    length = len(variable) + 11
    for code, target in ((0xE0, check_request), (0xD0, check_confirm)):
        target(b"\x03\x00" + length.to_bytes(2, "big") + bytes([length - 5, code]) + bytes(5) + variable)


@given(data=st.binary(max_size=80))
def test_any_bytes_behind_a_good_beginning(data: bytes) -> None:
    """The further a packet gets, the same holds."""
    check_request(b"\x10\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00" + data)
    check_request(b"\x18\x00\x00\x00" + data)
    check_proxy(b"PROXY TCP4 " + data)
    check_proxy(b"\r\n\r\n\x00\r\nQUIT\n\x21" + data)
    check_token(b"Cookie: msts=" + data)


@pytest.mark.parametrize("name", SEEDS)
@given(seed=st.integers(0, 2**32))
def test_mutated_captures(name: str, seed: int) -> None:
    """What the fuzzer tries by the thousand holds for a few here."""
    TARGETS[name](mutate(random.Random(seed), SEEDS[name]))


def test_the_fuzzer_runs(capsys: pytest.CaptureFixture[str]) -> None:
    """`python -m tests.fuzz` runs each target for the given time and says so."""
    assert 0 == main(["0.05", "--seed", "1"])
    assert list(TARGETS) == [line.partition(":")[0] for line in capsys.readouterr().out.splitlines()]


def test_the_fuzzer_finds(capsys: pytest.CaptureFixture[str]) -> None:
    """A target that breaks is reported with the hex that breaks it again."""

    def no_cookies(data: bytes) -> None:
        assert b"Cookie" not in data

    targets = {**TARGETS, "request": no_cookies}
    assert 1 == main(["5", "--seed", "1"], targets)
    replay = capsys.readouterr().out.splitlines()[-1]
    found = replay.split("'")[1]
    assert f"python -m tests.fuzz --replay request '{found}'" == replay
    assert b"Cookie" in bytes.fromhex(found)
    assert 1 == main(["--replay", "request", found], targets)
    assert 0 == main(["--replay", "request", "00"], targets)


def test_the_fuzzer_knows_its_targets(capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong target's name is answered with the right ones."""
    with pytest.raises(SystemExit) as caught:
        main(["--replay", "nothing", "00"])
    assert 2 == caught.value.code
    assert "no target nothing: there are request, confirm, proxy, token, control" in capsys.readouterr().err
