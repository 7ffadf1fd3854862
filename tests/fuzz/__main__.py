"""Run each target on mutated captures and random bytes for some seconds; no extra packages needed.

`python -m tests.fuzz [SECONDS] [--seed N]`, and to look at a finding again
`python -m tests.fuzz --replay TARGET HEX`. Exit code 1: a promise broke; the hex to replay is printed.
"""

import argparse
import random
import secrets
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Final

from rdpbalancer.model import Endpoint
from rdpbalancer.wire.proxy import build_proxy
from tests.fuzz.control import SEEDS as CONTROL_SEEDS
from tests.fuzz.exporter import SEEDS as EXPORTER_SEEDS
from tests.fuzz.targets import TARGETS
from tests.support.vectors import CONFIRMS, EXCHANGES, TOKENS, VECTORS

_MAX_INPUT_BYTES: Final = 2200  # a little more than any parser here wants to see
_EDGES: Final = (0x00, 0x01, 0x02, 0x03, 0x0A, 0x0D, 0x10, 0x16, 0x20, 0x7F, 0x80, 0xD0, 0xE0, 0xFE, 0xFF)
_PAIRS: Final = (
    (Endpoint("192.0.2.1", 50000), Endpoint("198.51.100.7", 3389)),
    (Endpoint("2001:db8::1", 50000), Endpoint("2001:db8::7", 3389)),
)

SEEDS: Final[dict[str, list[bytes]]] = {
    "request": [vector.data for vector in VECTORS.values()] + [each.request for each in EXCHANGES],
    "confirm": [vector.data for vector in CONFIRMS.values()] + [each.reply for each in EXCHANGES],
    "proxy": [build_proxy(version, *pair) for version in (1, 2) for pair in _PAIRS]
    + [b"PROXY UNKNOWN\r\n", b"\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00"],
    "token": list(TOKENS),
    "control": CONTROL_SEEDS,
    "exporter": EXPORTER_SEEDS,
}


def mutate(rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    """Return one seed after a few random changes, or, one time in ten, nothing but random bytes."""
    if rng.random() < 0.1:
        return rng.randbytes(rng.randrange(300))
    data = bytearray(rng.choice(seeds))
    for _ in range(rng.randrange(5)):
        at = rng.randrange(len(data) + 1)
        change = rng.randrange(6)
        if change == 0:
            data[at : at + 1] = bytes([rng.randrange(256)])
        elif change == 1:
            data[at : at + 1] = bytes([rng.choice(_EDGES)])
        elif change == 2:
            data[at:at] = rng.randbytes(rng.randrange(1, 20))
        elif change == 3:
            del data[at : at + rng.randrange(1, 20)]
        elif change == 4:
            data[at:] = rng.choice(seeds)[at:]
        else:
            data[at:at] = rng.choice(seeds)
    if len(data) > 4 and data[0] == 3 and rng.random() < 0.5:  # get past the framing: make the lengths right
        data[2:5] = min(len(data), 0xFFFF).to_bytes(2, "big") + bytes([len(data) - 5 & 0xFF])
    return bytes(data[:_MAX_INPUT_BYTES])


def hold(name: str, target: Callable[[bytes], None], data: bytes) -> bool:
    """Run a target on one input; on a broken promise show the error and how to see it again."""
    try:
        target(data)
    except Exception:  # noqa: BLE001 - whatever escapes is a finding
        sys.stdout.write(f"{traceback.format_exc()}\npython -m tests.fuzz --replay {name} '{data.hex()}'\n")
        return False
    return True


def main(arguments: Sequence[str], targets: dict[str, Callable[[bytes], None]] = TARGETS) -> int:
    """Fuzz, or replay one input; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("seconds", nargs="?", type=float, default=10.0, help="for each target (10)")
    parser.add_argument("--seed", type=int, help="repeat a run")
    parser.add_argument("--replay", nargs=2, metavar=("TARGET", "HEX"), help="run one input")
    options = parser.parse_args(arguments)
    if options.replay:
        name, text = options.replay
        if name not in targets:
            parser.error(f"no target {name}: there are {', '.join(targets)}")
        return 0 if hold(name, targets[name], bytes.fromhex(text)) else 1
    seed = secrets.randbits(32) if options.seed is None else options.seed
    for name, target in targets.items():
        rng = random.Random(f"{seed} {name}")
        deadline_at = time.monotonic() + options.seconds
        count = 0
        while time.monotonic() < deadline_at:
            if not hold(name, target, mutate(rng, SEEDS[name])):
                return 1
            count += 1
        sys.stdout.write(f"{name}: {count} inputs, seed {seed}: held\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
