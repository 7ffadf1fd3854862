"""The command line on a terminal of its own."""

import io
import json
import os
import pty
import subprocess
import sys
import termios
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PATIENCE_S = 20.0


@dataclass(frozen=True)
class Done:
    """How a command ended, and what it printed."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Return its output, which is JSON."""
        return json.loads(self.out)


def run(
    *args: str,
    socket: Path,
    columns: int = 80,
    typed: str | None = None,
    errors: bool = False,
    environ: Mapping[str, str] | None = None,
) -> Done:
    """Run the command line as a process whose output is a terminal of 24 lines.

    `typed`: standard input is that terminal too, and this is typed into it. `errors`: so is standard error.
    """
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, columns))
    kept = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS")}
    process = subprocess.Popen(
        [sys.executable, "-m", "rdpbalancer", "--socket", str(socket), *args],
        stdin=subprocess.DEVNULL if typed is None else theirs,
        stdout=theirs,
        stderr=theirs if errors else subprocess.PIPE,
        env={**kept, "TERM": "xterm-256color", **(environ or {})},
    )
    if typed is not None:
        os.write(ours, typed.encode())
    os.close(theirs)
    out = io.BytesIO()
    while chunk := _read(ours):
        out.write(chunk)
    os.close(ours)
    _, err = process.communicate(timeout=PATIENCE_S)
    said = out.getvalue().decode().replace("\r\n", "\n")
    return Done(process.returncode, said, (err or b"").decode())


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # the other end of a terminal was closed
        return b""
