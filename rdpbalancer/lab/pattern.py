"""The deterministic bytes that a streaming server sends. Apart, because clients and tests verify them."""

from typing import Final

# 251 is prime: neither buffers nor segments repeat at a multiple of it, so a shifted piece shows.
_PERIOD: Final = bytes(range(251))
_BLOCK: Final = _PERIOD * 522  # 131,022 bytes: two reads


def pattern(offset_bytes: int, size_bytes: int) -> bytes:
    """Return `size_bytes` bytes of the pattern, from `offset_bytes` on. Each byte is its offset mod 251."""
    start = offset_bytes % len(_PERIOD)
    if start + size_bytes <= len(_BLOCK):
        return _BLOCK[start : start + size_bytes]
    repeats = (start + size_bytes) // len(_PERIOD) + 1
    return (_PERIOD * repeats)[start : start + size_bytes]
