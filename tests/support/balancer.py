"""The balancer itself as a real process, with a configuration and state of its own in the test's folder."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rdpbalancer.model import Endpoint
from tests.support.processes import RealProcess, free_ports
from tests.support.wait import wait_until

_START_TIMEOUT_S = 15
# `upgrade --wait` itself waits up to 90 s.
_COMMAND_TIMEOUT_S = 100


class CommandFailed(AssertionError):  # noqa: N818 - it reads as the sentence it is in a test's output
    """The command line answered with an exit status other than 0."""

    def __init__(self, args: Sequence[str], status: int, text: str) -> None:
        super().__init__(f"rdpbalancer {' '.join(args)}: exit status {status}: {text}")
        self.status = status


class Balancer:
    """`rdpbalancer run` and its command line.

    `services` are virtual services as in the configuration file; one without `listen` gets a free port on
    127.0.0.1. The folder must be short: the control socket's path has to fit into 108 bytes.
    """

    def __init__(
        self,
        folder: Path,
        services: Sequence[Mapping[str, Any]],
        *,
        relays: int | str = 1,
        level: str = "debug",
        log_file: Path | None = None,
    ) -> None:
        self.folder = folder
        self.socket = folder / "run" / "control.sock"
        # Asked for together: one by one, two could turn out the same.
        metrics, *ports = free_ports(1 + len(services))
        self.metrics = Endpoint("127.0.0.1", metrics)
        self.services = [
            {"listen": f"127.0.0.1:{port}", **service} for port, service in zip(ports, services, strict=True)
        ]
        self._global = {
            "state_dir": str(folder / "state"),
            "runtime_dir": str(folder / "run"),
            "relays": relays,
            "log": {
                "format": "json",
                "level": level,
                "user": "plain",
                "file": str(log_file) if log_file is not None else None,
            },
            "metrics": {"listen": str(self.metrics)},
        }
        self.configuration = folder / "rdpbalancer.yaml"
        self.write_configuration()
        self._starts = 0
        self.process: RealProcess | None = None

    def write_configuration(self) -> None:
        """Write `services` to the configuration file; JSON is YAML."""
        content = {"global": self._global, "virtual_services": self.services}
        self.configuration.write_text(json.dumps(content, indent=2))

    def start(self) -> RealProcess:
        """Start the service and wait until it answers on its control socket."""
        self._starts += 1
        process = RealProcess(
            [sys.executable, "-m", "rdpbalancer", "run", "-c", str(self.configuration)],
            log=self.folder / f"rdpbalancer-{self._starts}.log",
        )
        self.process = process
        process.wait_for(self._answers, _START_TIMEOUT_S, "rdpbalancer answers `status`")
        return process

    def _answers(self) -> bool:
        return self.socket.exists() and self._run("status", "--json").returncode == 0

    @property
    def pid(self) -> int:
        """The supervisor's process id."""
        assert self.process is not None, "not started"
        return self.process.pid

    def endpoint(self, service: str) -> Endpoint:
        """Where a virtual service listens (its first address)."""
        listen = next(s["listen"] for s in self.services if s["name"] == service)
        first = listen if isinstance(listen, str) else listen[0]
        host, _, port = str(first).rpartition(":")
        return Endpoint(host.strip("[]"), int(port))

    def _run(self, *args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "rdpbalancer", "--socket", str(self.socket), *args],
            check=False,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=_COMMAND_TIMEOUT_S,
            env={**os.environ, "NO_COLOR": "1"},
        )

    def cli(self, *args: str) -> Any:
        """Run a command against this balancer: parsed JSON if `--json` is among the arguments, else text."""
        done = self._run(*args)
        if done.returncode != 0:
            raise CommandFailed(args, done.returncode, done.stderr or done.stdout)
        return json.loads(done.stdout) if "--json" in args else done.stdout

    def sessions(self) -> list[dict[str, Any]]:
        """The live sessions, as the command line shows them."""
        rows: list[dict[str, Any]] = self.cli("show", "sessions", "--json")
        return rows

    def records(self) -> list[dict[str, Any]]:
        """The session records in the log so far, of every start, oldest first."""
        return [event for event in self._events() if event.get("event") == "session_closed"]

    def _events(self) -> Iterator[dict[str, Any]]:
        for number in range(1, self._starts + 1):
            complete, _, _ = (self.folder / f"rdpbalancer-{number}.log").read_text().rpartition("\n")
            for line in complete.splitlines():
                if line.startswith("{"):  # not a traceback
                    yield json.loads(line)

    def wait_usable(self, count: int, timeout_s: float = 15) -> None:
        """Wait until `count` real servers of all services together are usable."""

        def usable() -> bool:
            services: list[dict[str, int]] = self.cli("show", "services", "--json")
            return sum(service["servers_usable"] for service in services) == count

        wait_until(
            usable, timeout_s, lambda: f"{count} usable servers: {self.cli('show', 'servers', '--json')}"
        )

    def stop(self) -> int:
        """End the service; return its exit status. Fails if it left a process behind."""
        assert self.process is not None, "not started"
        status = self.process.stop(grace_s=15)
        left = self.process.kill_children()
        assert [] == left, f"left children behind: {left}"
        return status
