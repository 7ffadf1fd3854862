"""Small modules, one name for one thing, no circles, and a test that looks at every module."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

_REPOSITORY: Final = Path(__file__).parents[2]
_PACKAGE: Final = _REPOSITORY / "rdpbalancer"
_MOST_LINES: Final = 300
_MOST_LINES_OF_A_FUNCTION: Final = 60
_MOST_LINES_OF_A_TEST_FILE: Final = 600

# What is longer, or tested only in a process of its own, each with its reason.
LONG_MODULES: Final[dict[str, str]] = {}
LONG_FUNCTIONS: Final[dict[str, str]] = {
    "telemetry.metrics.Metrics.__init__": "the table of all metrics, one after the other",
}
LONG_TEST_FILES: Final[dict[str, str]] = {
    "tests/unit/net/test_poller.py": "one fixture and its cases, of waiters and of step runners",
    "tests/unit/relay/test_idle_poll.py": "one fixture and its cases, of the poller and of idle sessions",
}
_BY_COMMAND = "run through click by tests/unit/cli, as an operator runs it"
_BY_LOADING = "run by every test of tests/unit/settings through settings.load"
_BY_REAL_PROCESSES = "needs real processes: tests/integration and tests/faults; to get tests of its own"
_BY_IN_PROCESS_ROUTER = "run through the operator's verbs or views of tests/unit/runtime"
_BY_PIPELINE = "run through ConnectionHandler by tests/unit/session/test_pipeline.py; to get tests of its own"
NOT_IMPORTED: Final[dict[str, str]] = {
    "": "the package: its version",
    "__main__": "run by tests as `python -m rdpbalancer`",
    **dict.fromkeys(
        [
            "cli.asking",
            "cli.emptying",
            "cli.helping",
            "cli.kick",
            "cli.lab_client",
            "cli.server_page",
            "cli.show",
            "cli.state",
            "cli.stopping",
            "cli.terminal",
        ],
        _BY_COMMAND,
    ),
    "control.answering": "run through ControlServer by tests/unit/control",
    "core.bindings": "run through Dispatcher by tests/unit/core/test_bindings_of_connections.py",
    "relay.link": "run through RelayPool by tests/unit/relay",
    "relay.migration_plan": "run through RelayPool by tests/unit/relay/test_migration_plan.py",
    "relay.service": "an interface; both implementations are run by tests/unit/relay/test_worker.py",
    **dict.fromkeys(
        [
            "runtime.background",
            "runtime.child",
            "runtime.frontends",
            "runtime.lifecycle",
            "runtime.loop",
            "runtime.open_listeners",
            "runtime.readiness",
            "runtime.rehearsal",
            "runtime.relay_processes",
            "runtime.reload",
            "runtime.reload_target",
            "runtime.router",
            "runtime.router_logs",
            "runtime.router_parts",
            "runtime.router_process",
            "runtime.service",
            "runtime.startup",
            "runtime.supervisor_messages",
            "runtime.supervisor_setup",
        ],
        _BY_REAL_PROCESSES,
    ),
    **dict.fromkeys(
        [
            "runtime.binding_verbs",
            "runtime.first_checks",
            "runtime.listings",
            "runtime.processes",
            "runtime.queries",
            "runtime.select",
        ],
        _BY_IN_PROCESS_ROUTER,
    ),
    **dict.fromkeys(
        [
            "session.client_watch",
            "session.collisions",
            "session.handover",
            "session.opening",
            "session.pipeline",
            "session.placement",
        ],
        _BY_PIPELINE,
    ),
    **dict.fromkeys(
        [
            "settings.checks",
            "settings.error_report",
            "settings.error_text",
            "settings.fields",
            "settings.files",
            "settings.merge",
            "settings.problems",
            "settings.tree",
        ],
        _BY_LOADING,
    ),
    "stores.loading": "run through DurableState by tests/unit/stores/test_state.py",
    "stores.tracking": "run through DurableState by tests/unit/stores/test_state.py",
    "telemetry.log_format": "run through logs.configure by tests/unit/telemetry",
    "telemetry.log_watch": "needs a log that cannot be written: tests/integration/balancer",
    "wire.layout": "run through wire.request and wire.confirm by tests/unit/wire",
}


def _modules() -> dict[str, Path]:
    found = {}
    for path in sorted(_PACKAGE.rglob("*.py")):
        parts = path.relative_to(_PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES: Final = _modules()
TREES: Final = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}


def _lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def test_no_module_is_long() -> None:
    long = {name for name, path in MODULES.items() if _lines(path) > _MOST_LINES}
    assert set(LONG_MODULES) == long


def _functions(name: str, node: ast.AST) -> Iterator[tuple[str, int]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            inner = f"{name}.{child.name}"
            if not isinstance(child, ast.ClassDef) and child.end_lineno is not None:
                yield inner, child.end_lineno - child.lineno + 1
            yield from _functions(inner, child)


def test_no_function_is_long() -> None:
    functions = [found for name, tree in TREES.items() for found in _functions(name, tree)]
    assert set(LONG_FUNCTIONS) == {name for name, lines in functions if lines > _MOST_LINES_OF_A_FUNCTION}


def test_no_test_file_is_long() -> None:
    files = {
        str(path.relative_to(_REPOSITORY)): _lines(path) for path in (_REPOSITORY / "tests").rglob("*.py")
    }
    assert set(LONG_TEST_FILES) == {
        name for name, lines in files.items() if lines > _MOST_LINES_OF_A_TEST_FILE
    }


def test_no_two_public_classes_have_one_name() -> None:
    """Whoever greps for one finds one."""
    places = defaultdict(list)
    for name, tree in TREES.items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(name)
    assert {} == {name: where for name, where in places.items() if len(where) > 1}


def _imports(name: str, tree: ast.AST) -> set[str]:
    """Return the modules of the package that a module imports, wherever in it."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("rdpbalancer"):
            module = node.module.removeprefix("rdpbalancer").removeprefix(".")
            for alias in node.names:
                inner = f"{module}.{alias.name}".lstrip(".")
                found.add(inner if inner in MODULES else module)
        elif isinstance(node, ast.Import):
            found |= {alias.name.removeprefix("rdpbalancer.") for alias in node.names}
    return {each for each in found if each in MODULES and each != name}


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Imports for type checkers and inside functions count."""
    graph = {name: _imports(name, tree) for name, tree in TREES.items()}
    done: set[str] = set()

    def walk(name: str, path: tuple[str, ...]) -> tuple[str, ...]:
        if name in path:
            return (*path[path.index(name) :], name)
        if name in done:
            return ()
        for other in graph[name]:
            if circle := walk(other, (*path, name)):
                return circle
        done.add(name)
        return ()

    assert () == next((circle for name in graph if (circle := walk(name, ()))), ())


def _tested() -> set[str]:
    """Return the modules that a test imports by itself, or names as a process to run."""
    found: set[str] = set()
    for path in (_REPOSITORY / "tests").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        found |= _imports("", tree)
    return found


def test_every_module_is_imported_by_a_test() -> None:
    without_code = {
        name for name, tree in TREES.items() if all(isinstance(node, ast.Expr) for node in tree.body)
    }
    untested = set(MODULES) - _tested() - without_code
    assert set(NOT_IMPORTED) == {name for name in untested if not _is_lab(name)}


def _is_lab(name: str) -> bool:
    """The simulated farm is tested by what is tested with it."""
    return bool(re.match(r"lab\b", name))


@pytest.mark.parametrize("exceptions", [LONG_MODULES, LONG_FUNCTIONS, LONG_TEST_FILES, NOT_IMPORTED])
def test_every_exception_has_its_reason(exceptions: dict[str, str]) -> None:
    assert all(len(reason) > 10 for reason in exceptions.values())
