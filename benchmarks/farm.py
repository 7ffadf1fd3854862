"""Proxies that run side by side, each reachable, each ended again."""

import contextlib
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Final

from benchmarks.load.clients import Crowd, requests
from benchmarks.load.loop import LoadError
from benchmarks.proxies import Proxy, Running
from benchmarks.workloads import Site, Target

DIRECT: Final = "direct"
_START_TIMEOUT_S: Final = 20.0
_RETRY_S: Final = 0.1
_numbers = count(1)


@dataclass(slots=True)
class Serving:
    """A proxy that serves, as the workloads see it, and as a process."""

    target: Target
    running: Running


@contextlib.contextmanager
def serving(name: str, proxy: Proxy, site: Site, core: int) -> Iterator[Serving]:
    """Start a proxy, wait until it uses every terminal server, and end it when the block is left.

    Raises:
        LoadError: it ended, or did not serve in time.
    """
    folder = Path(tempfile.mkdtemp(prefix="bench-"))
    folder.chmod(0o755)  # nginx's worker is another user
    running = None
    try:
        running = proxy.start(folder, site.servers.ports, core)
        tag = f"p{next(_numbers)}"
        _wait_until_serving(name, running, site, tag)
        running.refresh()
        yield Serving(Target(running.address, tag, proxy.sticky, running.cpu_ns, running.memory_kib), running)
    finally:
        if running is not None:
            running.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _wait_until_serving(name: str, running: Running, site: Site, tag: str) -> None:
    """Open sessions until every server has one: least connections spreads them as soon as all are up."""
    end = time.monotonic() + _START_TIMEOUT_S
    servers = len(site.servers.ports)
    for attempt in count():
        site.loop.run(_RETRY_S)
        users = [f"{tag}probe{attempt}u{number}".encode() for number in range(servers)]
        crowd = Crowd(site.loop, running.address)
        with contextlib.suppress(LoadError):
            crowd.open(requests(f"{tag}probe{attempt}", servers), at_once=1)
        crowd.leave()
        if len({site.servers.bound.get(user) for user in users} - {None}) == servers:
            return
        if running.ended or time.monotonic() > end:
            raise LoadError(f"{name} does not serve: {running.tail()}")


def direct(site: Site) -> Target:
    """Return the first terminal server itself."""
    return Target(("127.0.0.1", site.servers.ports[0]), "direct", sticky=True)
