r"""Keys that are nearly the one that was asked for.

An operator knows `alexandra`; the client's cookie says ``corp\alex``, because mstsc cuts ``DOMAIN\user``
after nine characters. Whoever is told so saves a call.
"""

from typing import Final

from rdpbalancer.model import Key, Method

# So many are worth showing.
MOST: Final = 10
# Shorter than this, everything begins like something.
_MIN_CHARS: Final = 3


def is_near(wanted: str, key: Key) -> bool:
    """Whether a key may be meant: the same user with another domain, or one of them cut short."""
    if key.method is not Method.RDP_COOKIE:
        return False
    wanted = wanted.lower()
    if key.value == wanted:
        return False
    if _cut(wanted, key.value):
        return True
    return _cut(_user(wanted), _user(key.value))


def _cut(one: str, other: str) -> bool:
    shorter, longer = sorted((one, other), key=len)
    return longer.startswith(shorter) and len(shorter) >= min(_MIN_CHARS, len(longer))


def _user(name: str) -> str:
    _, backslash, user = name.partition("\\")
    return user if backslash else name.partition("@")[0]
