"""Run the soak: ``python -m tests.soak SECONDS [SEED]``. Exit status 0 only if everything held."""

# ruff: noqa: T201 - what it prints is what it is for

import asyncio
import sys
import time
from collections.abc import Sequence

from tests.soak.soak import Soak, summary
from tests.soak.users import Book
from tests.soak.verdict import Done


def main(arguments: Sequence[str]) -> int:
    """Run for the seconds given; print what was done, what came of it, and the verdict."""
    seconds = float(arguments[0]) if arguments else 600.0
    seed = int(arguments[1]) if len(arguments) > 1 else time.time_ns() % 1_000_000
    print(f"soak: {seconds:g} s, seed {seed}", flush=True)
    soak = Soak(seconds, seed)
    wrong = asyncio.run(soak.run())
    print(f"done to the service: {summary(soak.done)}")
    if soak.book is not None:
        print(described(soak.book, soak.done))
    for line in wrong:
        print(f"WRONG: {line}")
    print(f"verdict: {'FAILED' if wrong else 'everything held'} (seed {seed})")
    return 1 if wrong else 0


def described(book: Book, done: Done) -> str:
    """Return the figures of a run."""
    grown = ", ".join(f"{title} {growth / 1024**2:+.1f} MiB" for growth, title in done.growth[:3])
    return (
        f"{sum(book.visits.values())} visits of {len(book.visits)} users, {book.moved_bytes / 1e6:.0f} MB"
        f" echoed and compared; {len(book.broken)} sessions ended with their relay or server,"
        f" {len(book.failed)} logins failed with it, {book.rehoused} users got a new desktop for it;"
        f" longest login {book.longest_s:.1f} s; largest growth: {grown or 'nothing lived long enough'}"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
