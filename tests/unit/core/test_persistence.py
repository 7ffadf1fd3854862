r"""Persistence keys: what a cookie or an address says of who comes."""

from collections.abc import Collection
from typing import Any

import pytest

from rdpbalancer.core.farm import PersistencePolicy
from rdpbalancer.core.persistence import Binding, Derived, cookie_key, derive, source_key
from rdpbalancer.model import Key, Method
from tests.unit.core.farms import ALICE

TOKEN, COOKIE, SOURCE = Method.ROUTING_TOKEN, Method.RDP_COOKIE, Method.SOURCE_IP
HOME = Key(SOURCE, "192.0.2.1")


def cookie(text: str | None, **policy: Any) -> str | None:
    """Return the key's value for a cookie under this policy."""
    key = cookie_key(PersistencePolicy(**policy), text or "")
    assert key is None or key.method is COOKIE
    return key.value if key else None


@pytest.mark.parametrize(
    ("sent", "value"),
    [
        ("alice", "alice"),
        ("ALICE", "alice"),
        ("Alice Doe", "alice doe"),
        ("MÜLLER", "müller"),
        ("m%DCller", "m%dcller"),  # bytes that were not UTF-8, escaped
        ("user@EXAMPLE.net", "user@example.net"),
        ("DOMAIN\\user", "domain\\user"),
        ("DOMAIN\\", "domain\\"),
        ("\\user", "\\user"),
        ("", None),
    ],
)
def test_a_cookie_is_a_key_in_lower_case(sent: str, value: str | None) -> None:
    assert value == cookie(sent)


@pytest.mark.parametrize(
    ("sent", "min_user_chars", "ambiguous"),
    [
        ("LONGDOMA\\", 1, True),  # nine characters, nothing left of the user
        ("LONGDOMA\\", 0, False),
        ("LONGDOM\\a", 1, False),
        ("LONGDOM\\a", 2, True),
        ("DOMAIN\\us", 1, False),
        ("DOMAIN\\us", 2, False),
        ("DOMAIN\\us", 3, True),
        ("DOMAIN\\u", 3, False),  # eight characters: nothing was cut, this is the whole name
        ("DOMAIN\\use", 9, False),  # ten: not cut by mstsc
        ("DOMAIN\\", 1, False),
        ("\\username", 8, False),
        ("LONGDOMAI", 9, False),  # no backslash: a name, as far as anybody can tell
        ("a\\b\\cdefg", 7, False),  # the first backslash ends the domain
        ("a\\b\\cdefg", 8, True),
    ],
)
@pytest.mark.parametrize("strip_domain", [False, True])
def test_nine_characters_may_have_lost_the_user(
    *, sent: str, min_user_chars: int, ambiguous: bool, strip_domain: bool
) -> None:
    """Only a cookie of exactly the length mstsc cuts to can be ambiguous, by what is left of the user."""
    whole = cookie(sent, min_user_chars=min_user_chars, strip_domain=strip_domain)
    nothing_left = strip_domain and sent.endswith("\\")
    assert (ambiguous or nothing_left) == (whole is None)


@pytest.mark.parametrize(
    ("sent", "value"),
    [
        ("DOMAIN\\USER", "user"),
        ("user@domain.example", "user"),
        ("User", "user"),
        ("\\user", "user"),
        ("DOMAIN\\", None),
        ("@domain", None),
        ("\\", None),
        ("DOMAIN\\user@other", "user@other"),
        ("a\\b\\c", "b\\c"),
        ("a@b@c", "a"),
    ],
)
def test_the_domain_can_be_left_out(sent: str, value: str | None) -> None:
    r"""`DOMAIN\user`, `user@domain` and `user` are one person then."""
    assert value == cookie(sent, strip_domain=True)


@pytest.mark.parametrize(
    ("source", "policy", "value"),
    [
        ("192.0.2.77", {}, "192.0.2.77"),
        ("192.0.2.77", {"ipv4_prefix": 24}, "192.0.2.0/24"),
        ("192.0.2.77", {"ipv4_prefix": 0}, "0.0.0.0/0"),
        ("2001:db8:1:2:3::4", {}, "2001:db8:1:2::/64"),
        ("2001:db8:1:2:3::4", {"ipv6_prefix": 48}, "2001:db8:1::/48"),
        ("2001:db8:1:2:3:0:0:4", {"ipv6_prefix": 128}, "2001:db8:1:2:3::4"),
        ("::ffff:192.0.2.77", {}, "192.0.2.77"),
        ("fe80::1%eth0", {}, "fe80::/64"),
    ],
)
def test_a_source_is_known_by_its_network(source: str, policy: dict[str, Any], value: str) -> None:
    assert Key(SOURCE, value) == source_key(PersistencePolicy(**policy), source)


def derived(text: str | None, *methods: Method, collisions: Collection[Key] = (), **policy: Any) -> Derived:
    return derive(
        PersistencePolicy(methods=methods, **policy),
        cookie=text,
        source="192.0.2.1",
        collides=lambda key: key in collisions,
    )


@pytest.mark.parametrize(
    ("text", "methods", "key"),
    [
        ("alice", (TOKEN, COOKIE, SOURCE), ALICE),
        ("alice", (COOKIE, SOURCE), ALICE),
        ("alice", (SOURCE, COOKIE), HOME),
        ("alice", (SOURCE,), HOME),
        ("alice", (COOKIE,), ALICE),
        ("alice", (TOKEN,), None),
        ("alice", (), None),
        (None, (TOKEN, COOKIE, SOURCE), HOME),
        ("", (TOKEN, COOKIE, SOURCE), HOME),
        (None, (COOKIE,), None),
    ],
)
def test_the_first_method_with_an_answer_gives_the_key(
    text: str | None, methods: tuple[Method, ...], key: Key | None
) -> None:
    """A token never gives a key; a cookie that is missing or empty is absent, not ambiguous."""
    assert Derived(key) == derived(text, *methods)


@pytest.mark.parametrize(("methods", "key"), [((COOKIE, SOURCE), HOME), ((COOKIE,), None)])
def test_an_ambiguous_cookie_gives_way_to_the_next_method(
    methods: tuple[Method, ...], key: Key | None
) -> None:
    assert Derived(key, ambiguous=True) == derived("LONGDOMA\\", *methods)


def test_a_method_before_the_cookie_never_looks_at_it() -> None:
    assert Derived(HOME) == derived("LONGDOMA\\", SOURCE, COOKIE)


@pytest.mark.parametrize(("methods", "key"), [((COOKIE, SOURCE), HOME), ((COOKIE,), None)])
def test_a_collision_gives_way_where_the_policy_says_so(methods: tuple[Method, ...], key: Key | None) -> None:
    actual = derived("Alice", *methods, collisions={ALICE}, collision_next_method=True)
    assert Derived(key, colliding_keys=(ALICE,)) == actual


@pytest.mark.parametrize(
    ("methods", "expected"),
    [
        ((SOURCE,), Derived(None, colliding_keys=(HOME,))),
        ((COOKIE, SOURCE), Derived(None, colliding_keys=(ALICE, HOME))),
        ((SOURCE, COOKIE), Derived(None, colliding_keys=(HOME, ALICE))),
    ],
)
def test_an_address_that_collides_gives_way_too(methods: tuple[Method, ...], expected: Derived) -> None:
    """To what follows it; where nothing does, there is no key, and the scheduler decides."""
    assert expected == derived("alice", *methods, collisions={ALICE, HOME}, collision_next_method=True)
    assert HOME == derived(None, *methods, collisions={HOME}).key


def test_a_key_that_does_not_collide_is_used() -> None:
    assert Derived(ALICE) == derived("alice", COOKIE, SOURCE, collision_next_method=True)


def test_collisions_are_nothing_by_default() -> None:
    """`keep`: and nobody asks, as the answer would change nothing."""

    def never(key: Key) -> bool:
        raise AssertionError(key)

    assert Derived(ALICE) == derive(PersistencePolicy(), cookie="alice", source="192.0.2.1", collides=never)


@pytest.mark.parametrize(
    ("expires_at", "now", "alive"),
    [(None, 1e9, True), (10.0, 9.9, True), (10.0, 10.0, False), (10.0, 11.0, False)],
)
def test_a_binding_lives_until_its_time(*, expires_at: float | None, now: float, alive: bool) -> None:
    """One that a live session pins has no time at all."""
    assert alive is Binding(ALICE, "ts1", confirmed=True, expires_at=expires_at).alive(now)
