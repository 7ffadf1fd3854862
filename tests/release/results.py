"""The last result of each part: when, of which commit, and how it ended."""

import datetime as dt
import json
from pathlib import Path
from typing import Final, TypedDict

# Older ones say little about the code as it is; .ci/run warns.
OLD_DAYS: Final = 14


class Result(TypedDict):
    """A part's line in the file."""

    commit: str
    date: str
    result: str


def read(path: Path) -> dict[str, Result]:
    """Return the results by part; none without the file."""
    if not path.exists():
        return {}
    found: dict[str, Result] = json.loads(path.read_text(encoding="utf-8"))
    return found


def write(path: Path, part: str, result: Result) -> None:
    """Put a part's result in the place of its last one; one line for each part."""
    results = {**read(path), part: result}
    lines = [f"  {json.dumps(name)}: {json.dumps(results[name])}" for name in sorted(results)]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def warnings(results: dict[str, Result], parts: tuple[str, ...], today: dt.date) -> list[str]:
    """Return a sentence for each part that never ran, failed, or ran more than `OLD_DAYS` ago."""
    told = []
    for part in parts:
        last = results.get(part)
        if last is None:
            told.append(f"{part} has not been run yet: make test-release")
            continue
        days = (today - dt.date.fromisoformat(last["date"])).days
        if not last["result"].startswith("passed"):
            told.append(f"{part} of {last['date']} ({last['commit']}): {last['result']}")
        elif days > OLD_DAYS:
            told.append(f"{part} was last run {days} days ago, at {last['commit']}: make test-release")
    return told
