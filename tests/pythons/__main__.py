"""``python -m tests.pythons [--install] [VERSION...]``: a line for each interpreter, and a verdict.

Each gets an environment of its own from the same lock. One that is not found is said, and not counted.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from tests.pythons.interpreters import VERSIONS, Interpreter, find, install

_REPOSITORY: Final = Path(__file__).parents[2]
_BUILD: Final = _REPOSITORY / "build" / "pythons"
_FAST: Final = ("tests/unit", "tests/property", "tests/contract")
_LOCK: Final = _REPOSITORY / "requirements" / "dev.lock"


def main() -> int:
    """Run the tests with each; return 1 if they failed with one."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--install", action="store_true", help="missing ones come from Debian, as root")
    parser.add_argument("--jobs", default="2", help="processes that run tests")
    parser.add_argument("versions", nargs="*", default=VERSIONS)
    chosen = parser.parse_args()
    results: dict[str, str] = {}
    for version in chosen.versions:
        found: Interpreter | str = find(version) or "not found"
        if isinstance(found, str) and chosen.install:
            found = install(version, _BUILD / "debian", _REPOSITORY)
            found = found if isinstance(found, Interpreter) else f"not found ({found})"
        results[version] = found if isinstance(found, str) else _tested(found, chosen.jobs)
        print(f"{version}: {results[version]}", flush=True)
    failed = [version for version, result in results.items() if result.startswith("FAILED")]
    tested = [version for version, result in results.items() if result.startswith("passed")]
    print(
        f"interpreters: passed with {', '.join(tested) or 'none'}; failed with {', '.join(failed) or 'none'}"
    )
    return int(bool(failed or not tested))


def _tested(python: Interpreter, jobs: str) -> str:
    """Return what came of an interpreter: `passed ...` or `FAILED ...`."""
    venv = _BUILD / python.version
    environment = dict(os.environ)
    if python.before:
        # Inside the other Debian there is no way to an index: its files are fetched from here.
        wheels = _BUILD / f"wheels-{python.version}"
        fetch = [sys.executable, "-m", "pip", "download", "-qq", "--no-deps", "--require-hashes"]
        fetch += ["--only-binary", ":all:", "--python-version", python.version, "--dest", str(wheels)]
        if subprocess.run([*fetch, "--requirement", str(_LOCK)], check=False).returncode:
            return "FAILED: the lock has no wheel for it, or the index cannot be reached"
        kept = {name: value for name, value in environment.items() if not name.startswith(("PIP_", "SSL_"))}
        environment = {**kept, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels)}
    begun_at = time.monotonic()
    script = str(_REPOSITORY / "requirements" / "install.py")
    setup = python.command(script, "dev", "--venv", str(venv), "--other-python-is-wanted")
    if subprocess.run(setup, check=False, env=environment, cwd=_REPOSITORY).returncode:
        return "FAILED: its environment cannot be set up"
    inside = Interpreter(python.version, str(venv / "bin" / "python"), python.before)
    log = _BUILD / f"{python.version}.log"
    tests = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(_REPOSITORY)]
    tests += ["--numprocesses", jobs, "--dist", "loadgroup"]
    tests += [str(_REPOSITORY / folder) for folder in _FAST]
    with log.open("wb") as file:
        checked = subprocess.run(
            inside.command("-m", "pip", "check"), check=False, env=environment, stdout=file, stderr=file
        )
        done = subprocess.run(
            inside.command(*tests), check=False, env=environment, cwd=_REPOSITORY, stdout=file, stderr=file
        )
    text = log.read_text(encoding="utf-8", errors="replace")
    last = (text.splitlines() or [""])[-1].strip("= ")
    if checked.returncode or done.returncode:
        print(text[-8000:])
        return f"FAILED: {last}"
    return f"passed: {last} ({time.monotonic() - begun_at:.0f} s with its set-up)"


if __name__ == "__main__":
    sys.exit(main())
