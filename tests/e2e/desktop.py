"""Terminal servers, users and their screens, all real: xrdp with xorgxrdp, useradd, xfreerdp under Xvfb."""

import contextlib
import os
import pwd
import random
import re
import secrets
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from rdpbalancer.model import Endpoint
from tests.support.processes import Processes, RealProcess, command_line, free_ports, pids_of_user
from tests.support.programs import require, require_package_file, require_root
from tests.support.wait import wait_until

_ETC: Final = Path("/etc/xrdp")
_SCRIPT: Final = Path(__file__).with_name("terminal_server.sh")
_NAMESPACES: Final = ("--mount", "--pid", "--ipc", "--fork", "--kill-child", "--mount-proc")

# The user's whole desktop: one terminal with a shell. The session lasts as long as the shell does.
_WINDOW_MANAGER: Final = "#!/bin/sh\nexec xterm -geometry 80x24+0+0 -e /bin/sh\n"

# In the terminal at the window's top left, beside the login box that xrdp may show in the window's middle.
_INSIDE_TERMINAL: Final = (30, 250)
_WHITE: Final = "#FFFFFF"

# A display of this number or above is nobody's on a machine with ordinary use.
_FIRST_DISPLAY: Final = 60
_TRIES: Final = 20


def require_terminal_servers() -> None:
    """Skip the test unless real desktops can be had here."""
    require_root()
    for program in ("xrdp", "xrdp-sesman", "xterm", "useradd"):
        require(program)
    require_package_file("xorgxrdp")
    trial = subprocess.run(["unshare", *_NAMESPACES, "true"], check=False, capture_output=True, text=True)
    if trial.returncode != 0:
        pytest.skip(f"needs the right to make namespaces (CAP_SYS_ADMIN): {trial.stderr.strip()}")


def _edit(text: str, **changes: str) -> str:
    """Return the .ini text with the first `key=` line of each given key replaced, in every section."""
    lines = []
    for line in text.splitlines():
        key, equals, _ = line.partition("=")
        lines.append(f"{key}={changes[key]}" if equals and key in changes else line)
    return "\n".join(lines) + "\n"


def _free_display(taken: set[int]) -> int:
    """Return the first of ten display numbers on which no X server of this machine listens.

    Abstract sockets are asked, for the terminal servers share the network's names and not the file system's.
    By chance, so that two test runs on one machine hardly meet.
    """
    sockets = Path("/proc/net/unix").read_text()
    for first in random.sample(range(_FIRST_DISPLAY, 1000, 10), k=_TRIES):
        in_use = any(f"X11-unix/X{number}\n" in sockets for number in range(first, first + 10))
        if first not in taken and not in_use:
            return first
    raise AssertionError("no free display numbers")


class User:
    """A real user of this machine for the length of a test, with a password nobody knows."""

    def __init__(self, name: str) -> None:
        self.name = f"{name}-{secrets.token_hex(3)}"
        self.password = secrets.token_urlsafe(18)
        subprocess.run(
            [require("useradd"), "--create-home", "--shell", "/bin/sh", self.name],
            check=True,
            capture_output=True,
        )
        try:
            subprocess.run(
                ["chpasswd"], input=f"{self.name}:{self.password}", text=True, check=True, capture_output=True
            )
            entry = pwd.getpwnam(self.name)
        except BaseException:
            self.remove()
            raise
        self.uid = entry.pw_uid
        self.home = Path(entry.pw_dir)

    def pids(self, name: str) -> list[int]:
        """The user's living processes called `name`."""
        return pids_of_user(self.uid, name)

    def remove(self) -> None:
        """Take the user and the home folder away again."""
        done = subprocess.run(["userdel", "--remove", self.name], check=False, capture_output=True, text=True)
        assert done.returncode == 0, f"userdel: {done.stderr}"


class TerminalServer:
    """One xrdp with a session manager, sessions, configuration and sockets of its own."""

    _displays: Final[set[int]] = set()

    def __init__(self, name: str, folder: Path, processes: Processes) -> None:
        self.name = name
        port, sesman_port = free_ports(2)
        self.endpoint = Endpoint("127.0.0.1", port)
        self.first_display = _free_display(self._displays)
        self._displays.add(self.first_display)
        self._log = folder / name / "log"
        self._log.mkdir(parents=True)
        self._configure(folder / name / "etc", sesman_port=sesman_port)
        self._process = processes.start("unshare", *_NAMESPACES, "sh", str(_SCRIPT), str(folder / name))
        self._process.wait_for_port(self.endpoint.port)

    def _configure(self, etc: Path, *, sesman_port: int) -> None:
        shutil.copytree(_ETC, etc, symlinks=True)
        shutil.copystat(_ETC / "rsakeys.ini", etc / "rsakeys.ini")
        # autorun: no choice of sessions on the login screen; what the client gives is used at once.
        xrdp = _edit(
            (_ETC / "xrdp.ini").read_text(),
            port=f"tcp://{self.endpoint}",
            autorun="Xorg",
            EnableSyslog="false",
            LogFile="/var/log/xrdp.log",
        )
        # The edit above also met the sessions' own ports (`port=-1`: by socket).
        head, mark, sessions = xrdp.partition("[Xorg]\n")
        (etc / "xrdp.ini").write_text(head + mark + _edit(sessions, port="-1"))
        sesman = _edit(
            (_ETC / "sesman.ini").read_text(),
            ListenPort=str(sesman_port),
            X11DisplayOffset=str(self.first_display),
            EnableUserWindowManager="false",
            EnableSyslog="false",
            LogFile="/var/log/sesman.log",
        )
        (etc / "sesman.ini").write_text(sesman)
        (etc / "startwm.sh").write_text(_WINDOW_MANAGER)
        (etc / "startwm.sh").chmod(0o755)

    def log(self) -> str:
        """What xrdp and its session manager wrote."""
        return "".join(path.read_text(errors="replace") for path in sorted(self._log.iterdir()))

    def has_display(self, number: int) -> bool:
        """Whether an X display belongs to this server."""
        return self.first_display <= number < self.first_display + 10

    def stop(self) -> None:
        """End process 1 of the server: the kernel ends all the others."""
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        for child in children:
            os.kill(int(child), signal.SIGKILL)
        self._process.wait(10)
        self._displays.discard(self.first_display)


class Desktop:
    """What identifies a user's desktop: the display and the processes that live on it."""

    def __init__(self, user: User) -> None:
        self.xorg = tuple(user.pids("Xorg"))
        self.terminal = tuple(user.pids("xterm"))
        self.displays = tuple(
            int(number) for pid in self.xorg for number in re.findall(r" :(\d+) ", command_line(pid))
        )

    @classmethod
    def wait(cls, user: User, timeout_s: float = 20) -> "Desktop":
        """Wait until the user has one complete desktop."""

        def complete() -> Desktop | None:
            seen = cls(user)
            return seen if len(seen.displays) == len(seen.terminal) == 1 else None

        return wait_until(complete, timeout_s, f"a desktop of {user.name}")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Desktop) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash((self.displays, self.xorg, self.terminal))

    def __repr__(self) -> str:
        return f"Desktop(display={self.displays}, xorg={self.xorg}, terminal={self.terminal})"


class Screen:
    """A user's place: an X server without a monitor, on which RDP clients show their windows."""

    def __init__(self, folder: Path, processes: Processes) -> None:
        self._folder = folder
        self._processes = processes
        server = processes.start(
            require("Xvfb"), "-displayfd", "1", "-screen", "0", "1024x768x24", "-nolisten", "tcp"
        )
        server.wait_for_output(r"(?m)^\d+$")
        number = next(line for line in server.output().splitlines() if line.isdigit())
        # HOME: the clients keep known certificates there, and must not read or change the developer's.
        self.environment = {"DISPLAY": f":{number}", "HOME": str(folder)}

    def xfreerdp(self, to: Endpoint, *arguments: str, user: User | None = None) -> RealProcess:
        """Start xfreerdp towards `to`; with a `user`, logging in as that user."""
        login = [f"/u:{user.name}", f"/p:{user.password}"] if user else []
        fixed = [f"/v:{to}", "/cert:ignore", "/size:800x600", "/log-level:INFO"]
        return self._processes.start(
            require("xfreerdp"), *fixed, *login, *arguments, env=self.environment, cwd=self._folder
        )

    def rdesktop(self, to: Endpoint, *arguments: str) -> RealProcess:
        """Start rdesktop towards `to`, and trust the certificate that it asks about."""
        return self._processes.start(
            require("rdesktop"),
            *arguments,
            str(to),
            env=self.environment,
            cwd=self._folder,
            answers="yes\n",
        )

    def pixel(self, x: int, y: int) -> str:
        """Return the colour that the screen shows there, as `#RRGGBB`."""
        shown = self._x_tool("import", "-window", "root", "-crop", f"1x1+{x}+{y}", "-depth", "8", "txt:-")
        colour = re.search(r"#[0-9A-F]{6}", shown)
        assert colour is not None, f"import said {shown!r}"
        return colour.group()

    def run(self, command: str, *, shows: Callable[[], object]) -> None:
        """Type `command` into the desktop's terminal, and again if nothing comes of it within 4 s.

        A client that has just painted its first picture may not have the keyboard yet.
        """
        wait_until(
            lambda: self.pixel(*_INSIDE_TERMINAL) == _WHITE, 20, "the desktop's terminal on the screen"
        )
        for _ in range(3):
            self._x_tool("xdotool", "mousemove", *map(str, _INSIDE_TERMINAL))
            self._x_tool("xdotool", "key", "ctrl+u")  # whatever arrived of the last attempt
            self._x_tool("xdotool", "type", "--delay", "15", command)
            self._x_tool("xdotool", "key", "Return")
            with contextlib.suppress(AssertionError):
                wait_until(shows, 4, f"the effect of {command!r}")
                return
        raise AssertionError(f"typed three times without effect: {command!r}")

    def _x_tool(self, program: str, *arguments: str) -> str:
        done = subprocess.run(
            [require(program), *arguments],
            check=True,
            capture_output=True,
            text=True,
            timeout=20,
            env={**os.environ, **self.environment},
        )
        return done.stdout
