"""nginx's stream module: a plain TCP proxy. It reads no cookie, so it does less work than the others."""

import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.proxies.base import MissingProxy, Running, find, free_ports

_PACKAGE: Final = "libnginx-mod-stream"
_MODULE: Final = Path("/usr/lib/nginx/modules/ngx_stream_module.so")
_CONFIGURATION: Final = """\
load_module {module};
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 16384; }}
stream {{
    log_format record 'session $remote_addr:$remote_port $upstream_addr $status $bytes_received $bytes_sent'
                      ' $session_time';
    access_log {folder}/log record;
    upstream farm {{
        least_conn;
{servers}
    }}
    server {{
        listen 127.0.0.1:{port} backlog=4096 so_keepalive=on;
        proxy_pass farm;
        proxy_connect_timeout 5s;
        proxy_timeout 12h;
        proxy_socket_keepalive on;
    }}
}}
"""


@dataclass(frozen=True, slots=True)
class Nginx:
    """nginx with one worker."""

    title: str = "nginx stream (no cookie)"
    sticky: bool = False

    def version(self) -> str:
        """Return its version."""
        program = find("nginx", _PACKAGE)
        if not _MODULE.exists():
            raise MissingProxy(f"nginx has no stream module: apt-get install {_PACKAGE}")
        said = subprocess.run([program, "-v"], capture_output=True, text=True, check=False).stderr
        found = re.search(r"nginx/([\d.]+)", said)
        if found is None:
            raise MissingProxy(f"{program} -v does not tell its version")
        return f"nginx {found[1]}"

    def start(self, folder: Path, server_ports: Sequence[int], core: int) -> Running:
        """Start it in the foreground, its log in the folder."""
        (port,) = free_ports(1)
        # Sessions that we reset are no reason to avoid a server.
        servers = [f"        server 127.0.0.1:{at} max_fails=0;" for at in server_ports]
        configuration = folder / "nginx.conf"
        configuration.write_text(
            _CONFIGURATION.format(module=_MODULE, folder=folder, port=port, servers="\n".join(servers))
        )
        argv = [
            find("nginx", _PACKAGE),
            "-p",
            str(folder),
            "-c",
            str(configuration),
            "-e",
            str(folder / "error.log"),
        ]
        return Running(argv, ("127.0.0.1", port), folder, core, b"session ")
