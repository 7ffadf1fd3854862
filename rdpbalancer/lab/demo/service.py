"""The balancer as an administrator runs it: `rdpbalancer run -c FILE`, asked over its control socket."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from rdpbalancer.control.client import Client, UnreachableError
from rdpbalancer.lab.demo.conditions import DemoError, until
from rdpbalancer.model import Endpoint, Method

NAME: Final = "terminal-servers"  # the virtual service
RELAYS: Final = 2
METHODS: Final = (Method.ROUTING_TOKEN, Method.RDP_COOKIE, Method.SOURCE_IP)

START_S: Final = 20.0
STOP_S: Final = 12.0  # the service itself gives its processes 8 s
ANSWER_S: Final = 5.0  # a router that was killed is back in about one
_LOG_LINES: Final = 20


class DemoServer(NamedTuple):
    """A terminal server as the configuration names it."""

    name: str
    address: Endpoint
    weight: int


class DemoService:
    """The balancer's processes, its configuration and its state, all in `folder`."""

    def __init__(self, folder: Path, *, methods: Sequence[Method] = METHODS) -> None:
        self.folder = folder
        self.socket = folder / "run" / "control.sock"
        self._configuration = folder / "rdpbalancer.yaml"
        self._log = folder / "rdpbalancer.log"
        self._methods = methods
        self._process: subprocess.Popen[bytes] | None = None

    def configure(self, servers: Sequence[DemoServer]) -> None:
        """Write the configuration file (JSON is YAML). A running service reads it on `reload`."""
        service = {
            "name": NAME,
            "listen": "127.0.0.1:0",
            "persistence": {"methods": [str(method) for method in self._methods]},
            "health_check": {"interval": "500ms", "fast_interval": "100ms", "timeout": "1s"},
            "real_servers": [{**server._asdict(), "address": str(server.address)} for server in servers],
        }
        settings = {
            "state_dir": str(self.folder / "state"),
            "runtime_dir": str(self.folder / "run"),
            "relays": RELAYS,
            "shutdown_timeout": "0s",
            "log": {"format": "logfmt", "user": "plain"},
            "metrics": {"listen": None},
        }
        content = {"global": settings, "virtual_services": [service]}
        self._configuration.write_text(json.dumps(content, indent=2), encoding="utf-8")

    async def start(self) -> Endpoint:
        """Start it, wait until it takes users, and return where. Raises DemoError with its log."""
        self._process = self._launch()
        await until(self._is_running, START_S, "the balancer takes connections")
        (service,) = await self.call("services")
        host, _, port = service["listen"][0].rpartition(":")
        return Endpoint(host, int(port))

    async def call(self, verb: str, **params: Any) -> Any:
        """Ask the service. Raises UnreachableError, RefusedError."""
        return await asyncio.to_thread(self._call, verb, params)

    async def rows(self, verb: str, **params: Any) -> list[dict[str, Any]]:
        """Ask the service for all rows of a list. Raises UnreachableError, RefusedError."""
        return await asyncio.to_thread(self._rows, verb, params)

    async def stop(self) -> None:
        """End it with all its processes, with SIGKILL if need be."""
        process, self._process = self._process, None
        if process is None:
            return
        os.kill(process.pid, signal.SIGTERM)  # ours until it is waited for below, even if it has ended

        async def ended() -> bool:
            return _has_ended(process.pid)

        try:
            await until(ended, STOP_S, "the balancer's end")
        except DemoError:
            pass  # SIGKILL follows
        finally:
            # It leads a process group that its children are in. Its number cannot be anybody else's yet.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def check_alive(self) -> None:
        """Raise DemoError ``ended``, with the log, if the balancer has ended."""
        if self._process is not None and _has_ended(self._process.pid):
            raise DemoError("ended", f"the balancer has ended; its log:\n{self.log()}")

    def log(self) -> str:
        """Return the end of its log."""
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-_LOG_LINES:])

    def _launch(self) -> subprocess.Popen[bytes]:
        with self._log.open("wb") as log:
            return subprocess.Popen(  # noqa: S603 (our own program, no shell)
                [sys.executable, "-m", "rdpbalancer", "run", "-c", str(self._configuration)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Ctrl-C is for the demonstration, which ends the balancer once the users have left.
                start_new_session=True,
            )

    async def _is_running(self) -> bool:
        assert self._process is not None  # noqa: S101 - start() has just set it
        if _has_ended(self._process.pid):
            raise DemoError("not-started", f"the balancer did not start; its log:\n{self.log()}")
        try:
            status = await self.call("status")
        except UnreachableError:
            return False
        return bool(status["status"] == "running")

    def _call(self, verb: str, params: dict[str, Any]) -> Any:
        with Client(self.socket, timeout_s=ANSWER_S) as client:
            return client.call(verb, **params)

    def _rows(self, verb: str, params: dict[str, Any]) -> list[dict[str, Any]]:
        with Client(self.socket, timeout_s=ANSWER_S) as client:
            return list(client.pages(verb, **params))


def _has_ended(pid: int) -> bool:
    """Whether our child has ended; it is not waited for, so that its number stays its own."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
