"""Rows: what goes into the file comes out of it, and clocks that jumped are not believed blindly."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdpbalancer.core.persistence import Binding
from rdpbalancer.core.status import Override
from rdpbalancer.model import Intent, Key, Method, ServerId
from rdpbalancer.stores import records


@given(
    method=st.sampled_from(Method),
    value=st.text(st.characters(min_codepoint=0, max_codepoint=0x10FFFF)),
    left_s=st.none() | st.integers(0, 10**7),
)
def test_a_binding_survives_whatever_its_key_holds(method: Method, value: str, left_s: int | None) -> None:
    """Escaped foreign bytes, NUL and all of Unicode are kept; life goes on by the other process's clock."""
    binding = Binding(
        Key(method, value), "ts1", confirmed=True, expires_at=None if left_s is None else 50.0 + left_s
    )
    row = records.pack_binding("farm", binding, now=50, wall=1_000_000)
    expected = Binding(
        binding.key, "ts1", confirmed=True, expires_at=None if left_s is None else 7.0 + left_s
    )
    assert expected == records.unpack_binding(row, now=7, wall=1_000_000)


@pytest.mark.parametrize(
    ("wall", "left_s"),
    [(1000.0, 60.0), (1010.0, 50.0), (1060.0, 0.0), (9e9, 0.0), (0.0, 60.0)],
    ids=["at once", "later", "at its end", "far ahead", "set back"],
)
def test_remaining_life_is_clipped(wall: float, left_s: float) -> None:
    """It is never negative and never more than when it was written."""
    binding = Binding(Key(Method.RDP_COOKIE, "anna"), "ts1", confirmed=True, expires_at=560.0)
    row = records.pack_binding("farm", binding, now=500, wall=1000)
    assert 30 + left_s == records.unpack_binding(row, now=30, wall=wall).expires_at


@pytest.mark.parametrize(
    "override",
    [Override(), Override(Intent.DRAIN, strict=True), Override(Intent.HALT, weight=0), Override(weight=256)],
)
def test_an_override_survives(override: Override) -> None:
    """Every word of the operator comes back as it was said."""
    server = ServerId("farm", "ts1")
    assert (server, override) == records.unpack_override(records.pack_override(server, override))
