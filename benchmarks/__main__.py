"""Compare rdpbalancer with HAProxy and nginx on this machine: `make bench`.

Load generator and terminal servers are pinned to one core, the proxies to another; see docs/performance.md.
"""

import argparse
import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from benchmarks import machine, report
from benchmarks.proxies import PROXIES, SCALING, STANDARD, MissingProxy
from benchmarks.run import Plan, run
from benchmarks.workloads import NAMES, Scale, workloads

RESULTS: Final = Path(__file__).parent / "results" / "latest.json"
_FULL: Final = Scale(duration_s=0.9)
_QUICK: Final = Scale(duration_s=0.5)
_QUICK_SIZE: Final = 0.2
_LIMIT_S: Final = 330.0


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="short rounds, few sessions: for development")
    parser.add_argument("--only", action="append", choices=NAMES, help="this workload; may be repeated")
    parser.add_argument("--proxies", nargs="+", choices=list(PROXIES), help=f"default: {' '.join(STANDARD)}")
    parser.add_argument("--scaling", action="store_true", help="also rdpbalancer with 0 and 2 relays")
    parser.add_argument("--rounds", type=int, help="default 5; 2 with --quick")
    parser.add_argument("--duration", type=float, metavar="S", help="seconds per measurement")
    parser.add_argument("--json", type=Path, default=RESULTS, metavar="FILE", help="default: %(default)s")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="also draw the ratios")
    return parser.parse_args(argv)


def present(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the proxies that are installed with all versions; say what the others need."""
    found, versions = [], []
    for name in names:
        try:
            version = PROXIES[name].version()
        except MissingProxy as missing:
            sys.stderr.write(f"left out: {name}: {missing}\n")
            continue
        found.append(name)
        if version not in versions:
            versions.append(version)
    return found, versions


def plan_of(options: argparse.Namespace) -> tuple[Plan, str]:
    """Return what the options ask for, and the machine in words."""
    names = options.proxies or [*STANDARD, *(SCALING if options.scaling else ())]
    proxies, versions = present(names)
    scale = _QUICK if options.quick else _FULL
    if options.duration is not None:
        scale = scale._replace(duration_s=options.duration)
    chosen = [
        workload
        for workload in workloads(_QUICK_SIZE if options.quick else 1.0)
        if not options.only or workload.name in options.only
    ]
    rounds = options.rounds or (2 if options.quick else 5)
    return Plan(chosen, proxies, rounds, scale, _LIMIT_S), f"{machine.describe()}, {', '.join(versions)}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the comparison; 1 if a workload failed."""
    options = arguments(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that clean-up happens
    plan, facts = plan_of(options)
    if not plan.proxies:
        sys.stderr.write("none of the proxies is installed\n")
        return 1
    outcome = run(plan)
    print(report.text(plan, outcome, facts))
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(report.document(plan, outcome, facts), indent=1) + "\n")
    print(f"\nevery value: {options.json}")
    if options.svg is not None:
        options.svg.write_text(report.drawing(plan, outcome))
        print(f"chart: {options.svg}")
    return 1 if outcome.failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
