"""``python -m tests.release PART...``: run parts of the release tests, and note how they ended.

``--warn`` runs nothing and says which results are old, bad or missing.
"""

# ruff: noqa: T201 - what it prints is what it is for

import argparse
import datetime as dt
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tests.release.results import Result, read, warnings, write

_REPOSITORY: Final = Path(__file__).parents[2]
_RESULTS: Final = _REPOSITORY / "tests" / "release.json"
_ROUNDS: Final = 10


def main() -> int:
    """Run the parts; return 1 if one of them failed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--warn", action="store_true", help="run nothing, say which results are old")
    parser.add_argument("--rounds", type=int, default=_ROUNDS, help="how often the fault tests are run")
    parser.add_argument("--folder", default="tests/faults", help="what is repeated")
    parser.add_argument("--results", type=Path, default=_RESULTS, help="the file that keeps the results")
    parser.add_argument("parts", nargs="*", metavar="PART")
    chosen = parser.parse_args()
    parts: dict[str, Callable[[], tuple[bool, str]]] = {
        "pythons": _pythons,
        "repeat": lambda: _repeat(chosen.folder, chosen.rounds),
        "soak": lambda: (_run("-m", "tests.soak", "600"), "600 s"),
    }
    if chosen.warn:
        for warning in warnings(read(chosen.results), tuple(parts), _today()):
            print(f"warning: release tests: {warning}")
        return 0
    if unknown := set(chosen.parts) - set(parts):
        parser.error(f"no such part: {', '.join(sorted(unknown))}; there are: {', '.join(parts)}")
    all_good = True
    for name in chosen.parts:
        begun_at = time.monotonic()
        good, detail = parts[name]()
        verdict = f"{'passed' if good else 'FAILED'}: {detail}, {time.monotonic() - begun_at:.0f} s"
        write(chosen.results, name, Result(commit=_commit(), date=_today().isoformat(), result=verdict))
        print(f"{name}: {verdict}", flush=True)
        all_good = all_good and good
    return int(not all_good)


def _repeat(folder: str, rounds: int) -> tuple[bool, str]:
    """Run a folder's tests over and over, each time in another order; all rounds, also after a failure."""
    failed = []
    for number in range(1, rounds + 1):
        # Chosen here and printed, so that a round can be had again: pytest -p randomly --randomly-seed=SEED.
        seed = random.SystemRandom().randrange(2**32)
        print(f"round {number} of {rounds}: --randomly-seed={seed}", flush=True)
        if not _run("-m", "pytest", "-q", "-p", "randomly", f"--randomly-seed={seed}", folder):
            failed.append(str(seed))
    told = f"{rounds - len(failed)} of {rounds} rounds of {folder}"
    return not failed, f"{told}; failed with seeds {', '.join(failed)}" if failed else told


def _pythons() -> tuple[bool, str]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.pythons", "--install"],
        check=False,
        stdout=subprocess.PIPE,
        text=True,
        cwd=_REPOSITORY,
    )
    print(done.stdout, end="")
    return done.returncode == 0, (done.stdout.splitlines() or ["nothing was said"])[-1]


def _run(*arguments: str) -> bool:
    return subprocess.run([sys.executable, *arguments], check=False, cwd=_REPOSITORY).returncode == 0


def _commit() -> str:
    command = ["git", "-C", str(_REPOSITORY), "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True)
    except FileNotFoundError:  # no git: an unpacked archive
        return "unknown"
    return done.stdout.strip() or "unknown"


def _today() -> dt.date:
    return dt.datetime.now(tz=dt.UTC).date()


if __name__ == "__main__":
    sys.exit(main())
