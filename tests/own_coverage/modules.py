"""Which test files are a module's own, and how much of it they have to cover."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

_SUITES: Final = ("tests/unit", "tests/contract")
# In per cent of lines and branches. Decisions and parsers are covered whole (docs: style of the tests).
_LEAST: Final = 90
_LEAST_OF_ROOM: Final = {"core": 100, "wire": 100}
# Suites that hold for every implementation of an interface are the own tests of each; so are those of modules
# that are tested together.
CONTRACTS: Final[dict[str, Sequence[str]]] = {
    "core.bindings": ("tests/unit/core/test_queue_*.py",),
    "core.dispatch": ("tests/unit/core/test_bindings_*.py", "tests/unit/core/test_queue_*.py"),
    "stores.memory": ("tests/contract/test_store*.py",),
}
# Less than the room's least, in per cent, each with its reason.
LESS: Final[dict[str, tuple[int, str]]] = {}


def modules(package: Path) -> dict[str, Path]:
    """Return every module that has code, by its name below the package ("core.route")."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        if parts[-1] == "__main__" or parts[0] == "lab":
            continue
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if name:
            found[name] = path
    return found


def own_tests(module: str, files: Iterable[str]) -> list[str]:
    """Return which of the test files, as paths from the repository, are the module's own.

    Those of `core.route` are test_route.py and test_route_*.py below tests/unit/core, perhaps with its room's
    name before (test_core_route.py), and the suites of CONTRACTS.
    """
    *rooms, name = module.split(".")
    room = rooms[0] if rooms else name
    before = "|".join(re.escape("_".join(rooms[at:]) + "_") for at in range(len(rooms)))
    own = re.compile(rf"{_SUITES[0]}/{room}/(?:\w+/)*test_(?:{before})?{re.escape(name)}(?:_\w+)?\.py")
    suites = CONTRACTS.get(module, ())
    return [path for path in files if own.fullmatch(path) or any(Path(path).match(suite) for suite in suites)]


def least(module: str) -> int:
    """Return how much of the module its own tests have to cover, in per cent."""
    if module in LESS:
        return LESS[module][0]
    return _LEAST_OF_ROOM.get(module.partition(".")[0], _LEAST)


def test_files(repository: Path) -> list[str]:
    """Return the files of the suites that count, as paths from the repository."""
    return [
        str(path.relative_to(repository))
        for suite in _SUITES
        for path in sorted((repository / suite).rglob("test_*.py"))
    ]
