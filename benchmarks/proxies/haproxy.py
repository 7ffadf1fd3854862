"""HAProxy as its users set it up for RDP: cookie persistence, checks, a log line per session, one thread."""

import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.proxies.base import MissingProxy, Running, find, free_ports

# `maxconn` decides how many descriptors it asks for, and it refuses to start with too few: 7,500 fits 20,000.
_CONFIGURATION: Final = """\
global
    nbthread 1
    maxconn 7500
    log stdout format raw local0
defaults
    mode tcp
    log global
    option tcplog
    option tcpka
    option redispatch
    {splice}
    timeout connect 5s
    timeout client 12h
    timeout server 12h
listen rdp
    bind 127.0.0.1:{port}
    tcp-request inspect-delay 5s
    tcp-request content accept if RDP_COOKIE
    persist rdp-cookie
    stick-table type string len 64 size 100k expire 1h
    stick on req.rdp_cookie(mstshash)
    balance leastconn
{servers}
"""
_SERVER: Final = "    server ts{number} 127.0.0.1:{port} check inter 2s rise 2 fall 3"


@dataclass(frozen=True, slots=True)
class HAProxy:
    """HAProxy in TCP mode, with or without `option splice-auto`."""

    splice: bool
    sticky: bool = True

    @property
    def title(self) -> str:
        """How the table calls it."""
        return "HAProxy, splice-auto" if self.splice else "HAProxy"

    def version(self) -> str:
        """Return its version."""
        program = find("haproxy", "haproxy")
        said = subprocess.run([program, "-v"], capture_output=True, text=True, check=False).stdout
        found = re.search(r"version (\d+\.\d+\.\d+)", said)
        if found is None:
            raise MissingProxy(f"{program} -v does not tell its version")
        return f"HAProxy {found[1]}"

    def start(self, folder: Path, server_ports: Sequence[int], core: int) -> Running:
        """Start it in the foreground, its log in the folder."""
        (port,) = free_ports(1)
        servers = [_SERVER.format(number=number, port=at) for number, at in enumerate(server_ports, 1)]
        configuration = folder / "haproxy.cfg"
        configuration.write_text(
            _CONFIGURATION.format(
                port=port,
                servers="\n".join(servers),
                splice="option splice-auto" if self.splice else "no option splice-auto",
            )
        )
        argv = [find("haproxy", "haproxy"), "-db", "-f", str(configuration)]
        return Running(argv, ("127.0.0.1", port), folder, core, b" rdp rdp/ts")
