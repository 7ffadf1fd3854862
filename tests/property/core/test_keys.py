"""Persistence keys, whatever a stranger writes into the cookie."""

from ipaddress import IPv6Address
from string import printable

from hypothesis import given
from hypothesis import strategies as st

from rdpbalancer.core.farm import PersistencePolicy
from rdpbalancer.core.persistence import cookie_key, derive, source_key
from rdpbalancer.model import Method

policies = st.builds(
    PersistencePolicy,
    methods=st.lists(st.sampled_from(Method), unique=True).map(tuple),
    strip_domain=st.booleans(),
    min_user_chars=st.integers(0, 9),
    ipv4_prefix=st.integers(0, 32),
    ipv6_prefix=st.integers(0, 128),
    collision_next_method=st.booleans(),
)
# As the parser gives it: any bytes but the line's end, what is not UTF-8 escaped.
cookies = st.one_of(
    st.binary(max_size=40).map(lambda sent: sent.decode("utf-8", "backslashreplace")),
    st.text("aAbB\\@é", max_size=10),
)
addresses = st.ip_addresses().map(str)
v6_addresses = st.integers(0, 2**128 - 1).map(IPv6Address)


@given(policy=policies, cookie=st.none() | cookies, source=addresses, collides=st.booleans())
def test_any_cookie_gives_a_key_of_a_configured_method(
    policy: PersistencePolicy, cookie: str | None, source: str, *, collides: bool
) -> None:
    """Or none; never an empty one, and never one of a routing token."""
    derived = derive(policy, cookie=cookie, source=source, collides=lambda _: collides)
    if derived.key is not None:
        assert derived.key.method in policy.methods
        assert Method.ROUTING_TOKEN != derived.key.method
        assert derived.key.value
        assert derived.key not in derived.colliding_keys
    elif Method.SOURCE_IP in policy.methods:
        assert policy.collision_next_method
        assert Method.SOURCE_IP in {key.method for key in derived.colliding_keys}
    assert not derived.colliding_keys or (collides and policy.collision_next_method)
    assert not derived.ambiguous or cookie


@given(policies, st.text(printable, max_size=12))
def test_case_makes_no_difference(policy: PersistencePolicy, cookie: str) -> None:
    assert cookie_key(policy, cookie.lower()) == cookie_key(policy, cookie.upper())


@given(st.text("abc.-", min_size=1, max_size=12), st.text("abcDEF.", max_size=8))
def test_a_stripped_user_is_one_user(user: str, domain: str) -> None:
    r"""With enough left of the name, `DOMAIN\user`, `user@domain` and `user` have one key."""
    policy = PersistencePolicy(strip_domain=True)
    plain = cookie_key(policy, user)
    assert plain is not None
    assert plain == cookie_key(policy, f"{domain}\\{user}")
    assert plain == cookie_key(policy, f"{user}@{domain}")


@given(policies, v6_addresses, st.integers(0, 2**64 - 1))
def test_addresses_of_one_network_have_one_key(
    policy: PersistencePolicy, address: IPv6Address, other: int
) -> None:
    """A host part that the prefix leaves out changes nothing."""
    number = int(address)
    mask = (1 << (128 - policy.ipv6_prefix)) - 1
    neighbour = (number & ~mask) | (other & mask)
    if any(each >> 32 == 0xFFFF for each in (number, neighbour)):
        return  # IPv4-mapped: those are IPv4 clients
    first, second = (source_key(policy, str(IPv6Address(each))) for each in (number, neighbour))
    assert first == second
