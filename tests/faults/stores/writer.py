"""A process that keeps bindings durably until it is killed: `python -m tests.faults.stores.writer FILE`.

Each change is told on standard output as `NUMBER MONOTONIC_SECONDS`, after it was noted. Every key is written
again and again, so that a write is under way at nearly any time.
"""

import asyncio
import sys
import time
from pathlib import Path
from typing import Final

from rdpbalancer.errors import StoreError
from rdpbalancer.model import Key, Method
from rdpbalancer.stores.journal import run_journal
from rdpbalancer.stores.state import DurableState
from rdpbalancer.tasks import spawn

SERVICE: Final = "farm"
KEYS: Final = 200
_CHANGES_PER_TURN: Final = 20
_LONGEST_RUN_S: Final = 30.0


def key(number: int) -> Key:
    """Return the key that change `number` is about."""
    return Key(Method.RDP_COOKIE, f"user{number % KEYS}")


def _fail(error: StoreError) -> None:
    raise SystemExit(str(error))


async def _main(path: Path) -> None:
    database = DurableState.open(path, now=time.monotonic(), wall=time.time())
    store = database.bindings(SERVICE)
    spawn(
        run_journal(database, clock=time.monotonic, wall=time.time, on_error=_fail, on_success=lambda: None),
        name="journal",
    )
    number = 0
    end_at = time.monotonic() + _LONGEST_RUN_S
    while time.monotonic() < end_at:
        for _ in range(_CHANGES_PER_TURN):
            store.confirm(key(number), f"server{number}", now=time.monotonic())
            sys.stdout.write(f"{number} {time.monotonic():.6f}\n")
            number += 1
        sys.stdout.flush()
        await asyncio.sleep(0.002)


if __name__ == "__main__":
    asyncio.run(_main(Path(sys.argv[1])))
