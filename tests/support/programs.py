"""Real programs: found, or the test is skipped with the name of the Debian package that has them."""

import os
import shutil
from pathlib import Path
from typing import Final

import pytest

DEBIAN_PACKAGES: Final = {
    "Xvfb": "xvfb",
    "haproxy": "haproxy",
    "import": "imagemagick",
    "jq": "jq",
    "kill": "procps",
    "logrotate": "logrotate",
    "openssl": "openssl",
    "promtool": "prometheus",
    "rdesktop": "rdesktop",
    "systemd-analyze": "systemd",
    "systemd-sysusers": "systemd",
    "useradd": "passwd",
    "xdotool": "xdotool",
    "xfreerdp": "freerdp2-x11",
    "xrdp": "xrdp",
    "xrdp-sesman": "xrdp",
    "xterm": "xterm",
}

_DEBIAN_FILES: Final = {"xorgxrdp": "/usr/lib/xorg/modules/libxorgxrdp.so"}

# Debian keeps daemons where an ordinary user's PATH does not look.
_SEARCH_PATH: Final = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin"])


def require(program: str) -> str:
    """Return the program's path, or skip the test."""
    found = shutil.which(program, path=_SEARCH_PATH)
    if found is None:
        pytest.skip(f"{program} is missing: apt-get install {DEBIAN_PACKAGES.get(program, program)}")
    return found


def require_package_file(package: str) -> Path:
    """Return the file that shows `package` to be installed, or skip the test (packages without a program)."""
    path = Path(_DEBIAN_FILES[package])
    if not path.exists():
        pytest.skip(f"{path} is missing: apt-get install {package}")
    return path


def require_root() -> None:
    """Skip the test unless it may add users and mount file systems."""
    if os.geteuid() != 0:
        pytest.skip("needs root: it adds users and gives each terminal server file systems of its own")
