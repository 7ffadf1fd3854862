"""rdpbalancer as it is installed: persistence, checks, metrics, durable state, a record per session."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.proxies.base import Running, free_ports
from rdpbalancer import __version__


@dataclass(frozen=True, slots=True)
class RdpBalancer:
    """rdpbalancer with so many relay processes. `relays: auto` is 1 on the one core that a proxy gets."""

    relays: int
    sticky: bool = True

    @property
    def title(self) -> str:
        """How the table calls it."""
        if self.relays == 1:
            return "rdpbalancer"
        return f"rdpbalancer, relays: {self.relays}"

    def version(self) -> str:
        """Return its version."""
        return f"rdpbalancer {__version__}"

    def start(self, folder: Path, server_ports: Sequence[int], core: int) -> Running:
        """Start it; everything that is not an address or a folder has its default."""
        port, metrics = free_ports(2)
        content = {
            "global": {
                "state_dir": str(folder / "state"),
                "runtime_dir": str(folder / "run"),
                "relays": self.relays,
                "metrics": {"listen": f"127.0.0.1:{metrics}"},
            },
            "virtual_services": [
                {
                    "name": "rdp",
                    "listen": f"127.0.0.1:{port}",
                    "real_servers": [
                        {"name": f"ts{number}", "address": f"127.0.0.1:{at}"}
                        for number, at in enumerate(server_ports, 1)
                    ],
                }
            ],
        }
        configuration = folder / "rdpbalancer.yaml"
        configuration.write_text(json.dumps(content, indent=2))  # JSON is YAML
        argv = [sys.executable, "-m", "rdpbalancer", "run", "-c", str(configuration)]
        return Running(argv, ("127.0.0.1", port), folder, core, b"session_closed")
