"""``python -m tests.own_coverage [MODULE...]``: a line for each module that its own tests cover too little.

Runs the modules' own tests once; coverage notes beside every line which of them ran it (its "contexts").
"""

# ruff: noqa: T201 - what it prints is what it is for

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import coverage

from tests.own_coverage.modules import least, modules, own_tests, test_files

_REPOSITORY: Final = Path(__file__).parents[2]
_BUILD: Final = _REPOSITORY / "build" / "coverage"
# What is executed at an import, before a test begins: definitions, constants.
_AT_IMPORT: Final = r"^$"


def main() -> int:
    """Measure, print, return 1 if a module's own tests cover too little of it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--jobs", default="2", help="processes that run tests")
    parser.add_argument("--again", action="store_true", help="read the last run's data, run no test")
    parser.add_argument(
        "--all", action="store_true", help="a line for every module, and the lines that are not covered"
    )
    parser.add_argument(
        "modules", nargs="*", metavar="MODULE", help='such as "core" or "core.route"; default: all'
    )
    chosen = parser.parse_args()
    found = modules(_REPOSITORY / "rdpbalancer")
    wanted = {
        name: path
        for name, path in found.items()
        if not chosen.modules or any(name == of or name.startswith(f"{of}.") for of in chosen.modules)
    }
    files = {name: own_tests(name, test_files(_REPOSITORY)) for name in wanted}
    if not chosen.again and not _run(sorted({file for own in files.values() for file in own}), chosen.jobs):
        print("own coverage: tests have failed")
        return 1
    too_little = 0
    for name, path in wanted.items():
        percent, missing = _covered(path, files[name])
        good = percent >= least(name)
        too_little += not good
        if chosen.all or not good:
            tests = " ".join(Path(file).name for file in files[name]) or "no test file of its own"
            print(
                f"{'' if good else 'TOO LITTLE '}{name}: {percent:.1f} of {least(name)} % ({tests}) {missing}"
            )
    print(f"own coverage: {len(wanted) - too_little} of {len(wanted)} modules are covered by their own tests")
    return int(bool(too_little))


def _run(files: list[str], jobs: str) -> bool:
    _BUILD.mkdir(parents=True, exist_ok=True)
    (_BUILD / "data").unlink(missing_ok=True)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "--no-header",
        "--numprocesses",
        jobs,
        "--dist",
        "loadgroup",
    ]
    command += ["--cov=rdpbalancer", "--cov-branch", "--cov-context=test", "--cov-report=", *files]
    environment = {**os.environ, "COVERAGE_FILE": str(_BUILD / "data")}
    return subprocess.run(command, check=False, cwd=_REPOSITORY, env=environment).returncode == 0


def _covered(module: Path, files: list[str]) -> tuple[float, str]:
    """Return how many per cent of a module these test files run, lines and branches, and what they do not."""
    report = _BUILD / "report.json"
    measured = coverage.Coverage(
        data_file=str(_BUILD / "data"), config_file=str(_REPOSITORY / "pyproject.toml")
    )
    measured.load()
    contexts = [_AT_IMPORT, *(f"^{file}::" for file in files)]
    try:
        measured.json_report(outfile=str(report), include=[str(module)], contexts=contexts)
    except coverage.exceptions.NoDataError:
        return 0.0, "never imported"
    told = json.loads(report.read_text(encoding="utf-8"))
    lines = ", ".join(str(line) for file in told["files"].values() for line in file["missing_lines"][:12])
    return float(told["totals"]["percent_covered"]), f"lines {lines}" if lines else ""


if __name__ == "__main__":
    sys.exit(main())
