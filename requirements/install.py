"""Fill a virtual environment with exactly what a lock lists, and put this clone's code on its path.

    python3 requirements/install.py runtime|dev [--venv DIR] [--other-python-is-wanted]

`make` runs it before each of its targets. Nothing is resolved: every file that is installed is listed in the
lock, with its hash, so that a release of tomorrow changes nothing here. It works with every pip from 22.0 on,
and needs nothing but the standard library. An environment that is in order is left as it is, within 0.1 s.
"""

import argparse
import ast
import contextlib
import fcntl
import hashlib
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NoReturn

ROOT: Final = Path(__file__).resolve().parent.parent
LOCKS: Final = ROOT / "requirements"
# What an environment was filled with; written last, so that one that was interrupted is filled again.
STAMP: Final = ".installed.json"
OLDEST: Final = (3, 11)
# `pip --python`, which fills an environment that has no pip of its own.
_PIP_FOR_OTHERS: Final = (22, 3)

# Where packages come from and how they are fetched is this machine's business, and is taken from its pip
# configuration. Everything else that may stand there (constraints, `user`, `target`, `pre`, ...) would change
# what is installed, or where, and is left out.
_KEPT_SETTINGS: Final = frozenset({
    "cache-dir", "cert", "client-cert", "default-timeout", "extra-index-url", "find-links", "index-url",
    "keyring-provider", "no-cache-dir", "no-index", "proxy", "retries", "timeout", "trusted-host",
})  # fmt: skip

_ASK: Final = (
    "import json, sys\n"
    "try:\n    from pip import __version__ as pip\n"
    "except Exception:\n    pip = ''\n"
    "import sysconfig\n"
    "print(json.dumps([sys.version_info[:3], pip, sysconfig.get_path('purelib'), sys.prefix]))\n"
)


class Python:
    """An interpreter that runs, and what it says of itself."""

    def __init__(self, program: Path | str, facts: list[Any]) -> None:
        self.program = program
        self.version: tuple[int, ...] = tuple(facts[0])
        self.pip: str = facts[1]
        self.packages = Path(facts[2])
        self.prefix = Path(facts[3])

    @property
    def line(self) -> str:
        """The version as people say it: 3.11."""
        return f"{self.version[0]}.{self.version[1]}"


def main() -> None:
    """Fill the environment, or say what is in the way."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("lock", choices=["runtime", "dev"])
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv")
    parser.add_argument(
        "--other-python-is-wanted",
        action="store_true",
        help="make the environment anew if it is of another Python version than this one",
    )
    chosen = parser.parse_args()
    if sys.version_info[:2] < OLDEST:
        _stop(f"rdpbalancer needs Python 3.11 or later; this is {sys.version.split()[0]} ({sys.executable})")
    venv = chosen.venv.absolute()
    with _alone(venv):
        python = _in_order(venv, only_this_python=chosen.other_python_is_wanted)
        if python is not None and chosen.lock in _stamped(venv):
            return
        fill(venv, python or _make(venv), chosen.lock)


@contextlib.contextmanager
def _alone(venv: Path) -> Iterator[None]:
    """Keep a second `make`, started beside this one, waiting."""
    venv.parent.mkdir(parents=True, exist_ok=True)
    folder = os.open(venv.parent, os.O_RDONLY)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say(f"waiting for another set-up of {_short(venv)} ...")
            fcntl.flock(folder, fcntl.LOCK_EX)
        except OSError:  # a file system without locks
            pass
        yield
    finally:
        os.close(folder)


# ---- the environment -------------------------------------------------------------------------------


def _in_order(venv: Path, *, only_this_python: bool) -> Python | None:
    """Return the environment's Python if it can be used; None: it is to be made anew, and why was said."""
    if not venv.exists() and not venv.is_symlink():
        return None
    if not venv.is_dir() or not _made_by_venv(venv):
        _stop(f"{_short(venv)} is there, and is no virtual environment: move it away, then try again")
    python = _ask(venv / "bin" / "python")
    if python is None:
        why = "its Python does not run (any more)"
    elif python.prefix.resolve() != venv.resolve():
        why = "its Python belongs to another environment"
    elif python.version[:2] < OLDEST:
        why = f"its Python {python.line} is too old"
    elif only_this_python and python.version[:2] != sys.version_info[:2]:
        why = f"it has Python {python.line}, and {sys.version_info[0]}.{sys.version_info[1]} is wanted"
    elif not python.pip and _pip_of_this_python() is None:
        why = "it has no pip"
    elif (told := _stamp(venv)) and told.get("path") != str(venv):
        why = "it was made in another folder"
    else:
        return python
    _say(f"{_short(venv)} is made anew: {why}")
    return None


def _made_by_venv(venv: Path) -> bool:
    """Return whether the folder is an environment, perhaps one whose making was interrupted."""
    parts = {"bin", "include", "lib", "lib64", "share", "pyvenv.cfg", ".gitignore", STAMP, ".ready"}
    return (venv / "pyvenv.cfg").exists() or {entry.name for entry in venv.iterdir()} <= parts


def _make(venv: Path) -> Python:
    """Make an empty environment with this Python."""
    command = [sys.executable, "-I", "-m", "venv", "--clear", str(venv)]
    if not _has("ensurepip"):
        if _pip_of_this_python() is None:
            _stop(
                f"{sys.executable} cannot make a virtual environment with pip: it comes without ensurepip.\n"
                f"On Debian and Ubuntu: apt install python{sys.version_info[0]}.{sys.version_info[1]}-venv"
            )
        command.insert(-1, "--without-pip")
    elif not _has("venv"):
        _stop(
            f"{sys.executable} comes without the module venv: install the rest of Python's standard library"
        )
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    python = _ask(venv / "bin" / "python")
    if done.returncode or python is None:
        _stop(f"{shlex.join(command)} failed:\n{(done.stdout + done.stderr).strip()}")
    return python


def _has(module: str) -> bool:
    done = subprocess.run([sys.executable, "-I", "-c", f"import {module}"], check=False, capture_output=True)
    return done.returncode == 0


def _ask(program: Path | str) -> Python | None:
    """Return what an interpreter says of itself; None: it does not run."""
    try:
        done = subprocess.run([str(program), "-I", "-c", _ASK], check=False, capture_output=True, text=True)
        return Python(program, json.loads(done.stdout)) if done.returncode == 0 else None
    except (OSError, ValueError):
        return None


def _pip_of_this_python() -> list[str] | None:
    """Return this Python's pip, if it can fill the environments of others."""
    this = _ask(sys.executable)
    numbers = (this.pip if this else "").split(".")[:2]
    if not all(number.isdigit() for number in numbers) or tuple(map(int, numbers)) < _PIP_FOR_OTHERS:
        return None
    return [sys.executable, "-I", "-m", "pip"]


# ---- what goes into it -----------------------------------------------------------------------------


def fill(venv: Path, python: Python, lock: str) -> None:
    """Install what the lock lists, and make this clone's code importable and runnable."""
    told = _stamped(venv)
    (venv / STAMP).unlink(missing_ok=True)
    listed = sum(line[:1].isalnum() for line in _lock(lock).read_text(encoding="utf-8").splitlines())
    _say(
        f"setting up {_short(venv)}: Python {python.line}, {listed} packages of requirements/{lock}.lock ..."
    )
    if python.pip:
        pip = [str(python.program), "-I", "-m", "pip"]
    else:
        pip = [*(_pip_of_this_python() or []), "--python", str(python.program)]
    environment = pip_environment(pip)
    if any(python.packages.glob("rdpbalancer-*.dist-info")):  # by `pip install .`: not this clone's code
        _pip([*pip, "uninstall", "--quiet", "--yes", "rdpbalancer"], environment, lock)
    # --no-deps: what a package asks for is in the lock, or pip would ask the index for the newest version.
    # --only-binary: building a package would fetch what builds it, unlocked.
    options = [
        "-qq",
        "--disable-pip-version-check",
        "--no-deps",
        "--require-hashes",
        "--only-binary",
        ":all:",
    ]
    _pip([*pip, "install", *options, "--requirement", str(_lock(lock))], environment, lock)
    _link(venv, python)
    # Whatever is in the lock for running is in the one for developers too, in the same version.
    now = {"dev", "runtime"} if lock == "dev" else {"runtime"} | (told - {"runtime"})
    stamp = {"path": str(venv), **{name: _hash(name) for name in sorted(now)}}
    written = venv / f"{STAMP}.new"
    written.write_text(json.dumps(stamp), encoding="utf-8")
    written.replace(venv / STAMP)


def pip_environment(pip: list[str]) -> dict[str, str]:
    """Return the environment for a pip that fetches as this machine is told to, and is told nothing else."""
    done = subprocess.run([*pip, "config", "list"], check=False, capture_output=True, text=True)
    kept: dict[str, str] = {}
    # One line for each setting, `section.name='value'`, those that count more later: pip's own order is kept.
    order = {"global": 0, "install": 1, ":env:": 2}
    found: list[tuple[int, str, str]] = []
    for line in done.stdout.splitlines():
        place, _, value = line.partition("=")
        section, _, name = place.rpartition(".")
        if section in order and name in _KEPT_SETTINGS:
            with contextlib.suppress(ValueError, SyntaxError):
                found.append((order[section], name, str(ast.literal_eval(value))))
    for _, name, value in sorted(found, key=lambda entry: entry[0]):
        if value:  # as pip has it, an empty one is none
            kept["PIP_" + name.upper().replace("-", "_")] = " ".join(value.split("\n"))
    others = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    return {**others, **kept, "PIP_CONFIG_FILE": os.devnull}


def _pip(command: list[str], environment: dict[str, str], lock: str) -> None:
    if subprocess.run(command, check=False, env=environment, stdin=subprocess.DEVNULL).returncode:
        _stop(
            f"pip could not install what requirements/{lock}.lock lists; what it said is above.\n"
            "- No connection: tell pip the proxy or the mirror, by `pip config set global.proxy ...` or\n"
            "  `global.index-url ...`; only files that match the lock are taken from there.\n"
            "- No matching distribution: no wheel for this Python on this machine. Try another one, as in\n"
            "  `make PYTHON=python3.12 demo`; `pip install .` builds what is missing, without the lock."
        )


def _link(venv: Path, python: Python) -> None:
    """Make `import rdpbalancer` and `.venv/bin/rdpbalancer` run this clone's code; nothing is built."""
    (python.packages / "rdpbalancer.pth").write_text(f"{ROOT}\n", encoding="utf-8")
    program = venv / "bin" / "rdpbalancer"
    # sh, for a path to the interpreter may be longer than the kernel allows after #!, or have blanks in it.
    # -P: what lies in the folder that one happens to be in is not imported.
    interpreter = shlex.quote(str(venv / "bin" / "python"))
    program.write_text(f'#!/bin/sh\nexec {interpreter} -P -m rdpbalancer "$@"\n', encoding="utf-8")
    program.chmod(0o755)


def _lock(name: str) -> Path:
    return LOCKS / f"{name}.lock"


def _hash(name: str) -> str:
    """Return what changes when the environment is to be filled anew: with the lock, and with this program."""
    return hashlib.sha256(_lock(name).read_bytes() + Path(__file__).read_bytes()).hexdigest()


def _stamp(venv: Path) -> dict[str, str]:
    try:
        told = json.loads((venv / STAMP).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return told if isinstance(told, dict) else {}


def _stamped(venv: Path) -> set[str]:
    """Return which locks the environment holds, as they are now."""
    told = _stamp(venv)
    return {name for name in ("runtime", "dev") if told.get(name) == _hash(name)}


def _short(path: Path) -> str:
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _stop(text: str) -> NoReturn:
    _say(text)
    sys.exit(1)


if __name__ == "__main__":
    main()
