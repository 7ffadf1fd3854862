"""What somebody without rights is told."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

_ASK = """
import os, sys
from pathlib import Path
from rdpbalancer.control.client import Client
from rdpbalancer.errors import RdpBalancerError
if os.getuid() == 0:
    os.setuid(65534)
try:
    Client(Path(sys.argv[1]))
except RdpBalancerError as error:
    print(error)
"""


def as_nobody(path: Path) -> str:
    """Connect to a control socket as a user who has no rights, and return the error's text."""
    if os.getuid() != 0:
        path.chmod(0)  # without root's rights, one's own socket will do
    else:
        for folder in path.parents:
            if folder.stat().st_uid == 0 and folder.is_relative_to("/tmp"):
                folder.chmod(folder.stat().st_mode | 0o011)
    done = subprocess.run(
        [sys.executable, "-c", _ASK, str(path)], check=False, capture_output=True, text=True, timeout=30
    )
    if done.returncode != 0:
        pytest.fail(done.stderr)
    return done.stdout.strip()
