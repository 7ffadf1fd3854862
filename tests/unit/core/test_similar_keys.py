"""Which keys somebody may have meant who mistyped one."""

import pytest

from rdpbalancer.core.similar_keys import is_near
from rdpbalancer.model import Key, Method


@pytest.mark.parametrize(
    ("wanted", "key", "expected"),
    [
        ("alexandra", "alex", True),
        ("alex", "alexandra", True),
        ("Alexandra", "corp\\alex", True),
        ("other\\alex", "corp\\alex", True),
        ("alex@corp.example", "alexandra", True),
        ("alice", "alice", False),
        ("ALICE", "alice", False),
        ("bert", "alice", False),
        ("alexandra", "al", False),
        ("al", "al@corp", True),
        ("b", "b", False),
    ],
)
def test_users_that_are_cut_short_or_of_another_domain_are_near(
    wanted: str, key: str, *, expected: bool
) -> None:
    assert expected is is_near(wanted, Key(Method.RDP_COOKIE, key))


def test_an_address_is_near_nothing() -> None:
    assert not is_near("192.0.2.1", Key(Method.SOURCE_IP, "192.0.2.10"))
