"""Finding interpreters: those that are here, and one in a Debian of its own where they are not."""

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

# The classifiers of pyproject.toml; a test compares.
VERSIONS: Final = ("3.11", "3.12", "3.13", "3.14")
# Debian's releases with the versions that Debian 12 does not have. None has 3.12.
_DEBIAN: Final = {"3.13": "trixie", "3.14": "forky"}
_SAY: Final = "import sys; print('%d.%d' % sys.version_info[:2])"
# The folder of the tests inside the other Debian, at the same place, and this machine's names. The mounts are
# in a namespace of their own, and go with its last process.
_ENTER: Final = """
set -e
root=$1 folder=$2; shift 2
mkdir -p "$root$folder"
mount --rbind "$folder" "$root$folder"
touch "$root/etc/hosts"
mount --bind /etc/hosts "$root/etc/hosts"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
exec chroot "$root" sh -c 'cd "$0" && exec "$@"' "$folder" "$@"
"""


@dataclass(frozen=True, slots=True)
class Interpreter:
    """How to run a Python of a version: `before` goes in front of its command."""

    version: str
    program: str
    before: tuple[str, ...] = ()

    def command(self, *arguments: str) -> list[str]:
        """Return the command that runs it."""
        return [*self.before, self.program, *arguments]


def runs(command: Sequence[str], version: str) -> bool:
    """Return whether the command is a Python of that version."""
    return not _problem(command, version)


def _problem(command: Sequence[str], version: str) -> str:
    """Return why the command is no Python of that version; empty: it is one."""
    try:
        done = subprocess.run([*command, "-c", _SAY], check=False, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if done.returncode:
        return (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
    return "" if done.stdout.strip() == version else f"it is {done.stdout.strip()}"


def find(version: str) -> Interpreter | None:
    """Return an interpreter of this machine, by PATH or of pyenv."""
    candidates = [found for found in [shutil.which(f"python{version}")] if found]
    candidates += map(str, sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"), reverse=True))
    for program in candidates:
        if runs([program], version):
            return Interpreter(version, program)
    return None


def install(version: str, folder: Path, repository: Path) -> Interpreter | str:
    """Return an interpreter in a Debian of its own below `folder`; a string: why there is none."""
    release = _DEBIAN.get(version)
    if release is None:
        return "no release of Debian has it"
    root = folder / release
    entered = ("unshare", "--mount", "--propagation", "private", "sh", "-c", _ENTER, "sh", str(root))
    there = Interpreter(version, f"/usr/bin/python{version}", (*entered, str(repository)))
    if not root.exists():
        if shutil.which("mmdebstrap") is None:
            return "mmdebstrap is missing: apt-get install mmdebstrap"
        folder.mkdir(parents=True, exist_ok=True)
        # openssl is a program that the tests call; a mirror may be older than its own date says.
        command = ["mmdebstrap", "--quiet", "--variant=minbase", "--include=python3-venv,openssl,procps,make"]
        command += ["--aptopt=Acquire::Check-Valid-Until false", release, str(root)]
        try:
            done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)
            failed = done.stderr.strip().splitlines()[-1:] if done.returncode else []
        except subprocess.TimeoutExpired:
            failed = ["it took longer than 300 s"]
        if failed or not root.exists():
            shutil.rmtree(root, ignore_errors=True)
            return f"Debian {release} cannot be installed: {''.join(failed)}"
    problem = _problem(there.command(), version)
    return (
        f"Debian {release} was installed, but its Python does not run here: {problem}" if problem else there
    )
