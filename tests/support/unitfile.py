"""Reading a systemd unit file (systemd.syntax(7)), as far as the service's own goes."""

from collections import defaultdict
from pathlib import Path
from typing import Final

SERVICE: Final = Path(__file__).parents[2] / "config" / "rdpbalancer.service"


def read_unit(path: Path = SERVICE) -> dict[str, list[str]]:
    """Return every directive's values in the file's order. An empty value is kept as ``""``."""
    values: defaultdict[str, list[str]] = defaultdict(list)
    for raw in path.read_text(encoding="utf-8").splitlines():
        line = raw.strip()
        if line and line[0] not in "#;[":
            name, _, value = line.partition("=")
            values[name].append(value)
    return dict(values)
