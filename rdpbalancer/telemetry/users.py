"""How users are named in logs: as they are, hashed, or not at all."""

import hashlib
import hmac
import os
import secrets
from functools import lru_cache
from pathlib import Path

_HASH_CHARS = 16
# The same users come again and again; a hash takes longer than all of their record.
_HASHES_KEPT = 4096


class UserMasking:
    """How users appear in logs: plain, hashed with a key of this installation, or not at all."""

    def __init__(self, how: str, key: bytes) -> None:
        self._how = how
        self._key = key
        self._hash = lru_cache(_HASHES_KEPT)(self._hash_anew)

    def __call__(self, user: str | None) -> str | None:
        """Return what a log may say of `user`."""
        if user is None or self._how == "off":
            return None
        if self._how == "plain":
            return user
        return self._hash(user)

    def _hash_anew(self, user: str) -> str:
        return hmac.new(self._key, user.lower().encode(), hashlib.sha256).hexdigest()[:_HASH_CHARS]


def installation_key(state_dir: Path) -> bytes:
    """Return the key that user names are hashed with, made at the first start and kept in `state_dir`.

    The same user then has the same hash in every log of this installation, and in no other's. Raises OSError:
    it can be neither read nor kept.
    """
    path = state_dir / "user-hash.key"
    try:
        key = path.read_bytes()
        if len(key) >= hashlib.sha256().digest_size:
            return key
    except FileNotFoundError:
        pass
    key = secrets.token_bytes(hashlib.sha256().digest_size)
    # A new file in the place of the old: what is there may be half written, or open to others.
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(key)
        fresh.rename(path)
    except OSError:
        fresh.unlink(missing_ok=True)
        raise
    return key
