"""The load generator: it notices what a proxy does wrong, so that no figure is made of it."""

import dataclasses
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import machine
from benchmarks.farm import direct
from benchmarks.load.clients import Crowd, requests
from benchmarks.load.loop import LoadError, Loop
from benchmarks.load.servers import Servers
from benchmarks.proxies import MissingProxy
from benchmarks.proxies.base import find
from benchmarks.workloads import Sample, Scale, Site, Workload, workloads

_SHORT = Scale(duration_s=0.1, warm_up_s=0.02)


@pytest.fixture
def site() -> Iterator[Site]:
    """Terminal servers with their loop."""
    loop = Loop()
    servers = Servers(loop)
    made = Site(loop, servers)
    yield made
    made.settle()
    loop.run_until(lambda: servers.open == 0, 5, "no connection is left")
    servers.close()
    loop.close()


@pytest.mark.parametrize("workload", workloads(size=0.02), ids=lambda workload: workload.title)
def test_a_workload_gives_what_it_promises(site: Site, workload: Workload) -> None:
    """Without a proxy every workload succeeds, and has a value for each of its measures."""
    sample = workload.run(site, direct(site), _SHORT)
    site.settle()
    promised = {measure.key.removeprefix("added_") for measure in workload.measures}
    assert promised == promised & set(sample.values)
    assert isinstance(sample, Sample)


def test_a_user_at_another_server_is_counted(site: Site) -> None:
    """The first server that a user reaches is the user's; the next one is wrong."""
    asked = requests("t", 1)
    for port in site.servers.ports[:2]:
        crowd = Crowd(site.loop, ("127.0.0.1", port))
        crowd.open(asked)
        crowd.leave()
    assert site.servers.wrong == 1
    assert site.servers.sessions_of("t") == 2
    with pytest.raises(LoadError, match="not their user's"):
        site.check_servers(direct(site))
    site.check_servers(dataclasses.replace(direct(site), sticky=False))


def test_a_refused_connection_refuses_the_result(site: Site) -> None:
    """Where nobody listens, a workload has no figures."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        address = closed.getsockname()
    nowhere = dataclasses.replace(direct(site), address=address)
    for workload in workloads(size=0.02):
        with pytest.raises(LoadError, match="failed"):
            workload.run(site, nowhere, _SHORT)
        site.settle()


def test_an_answer_that_is_no_confirm_refuses_the_result(site: Site) -> None:
    """A session counts only with its Connection Confirm."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)

        def refuse(_events: int) -> None:
            client, _ = listener.accept()
            client.sendall(b"\3\0\0\x0b\6\x80\0\0\0\0\0")
            client.close()

        site.loop.watch(listener.fileno(), refuse)
        crowd = Crowd(site.loop, listener.getsockname())
        with pytest.raises(LoadError, match="instead of a Connection Confirm"):
            crowd.open(requests("t", 1))
        site.loop.forget(listener.fileno())


def test_a_missing_program_is_named_with_its_package() -> None:
    """Who lacks a proxy learns which Debian package has it."""
    with pytest.raises(MissingProxy, match="apt-get install no-such-package"):
        find("no-such-program", "no-such-package")


def test_family_finds_grandchildren() -> None:
    """A proxy's cost is that of all its processes."""
    script = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'input()'])"
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as parent:
        loop = Loop()
        # The child's time is counted from the first tick that finds it running, not from its birth.
        loop.run_until(
            lambda: any(machine.cpu_ns([pid]) > 0 for pid in machine.family(parent.pid) if pid != parent.pid),
            10,
            "the child is there, and has run",
        )
        loop.close()
        pids = machine.family(parent.pid)
        assert 2 == len(pids)
        assert machine.cpu_ns(pids) > machine.cpu_ns([parent.pid]) > 0
        assert machine.pss_kib(pids) > 0
        assert parent.stdin is not None
        parent.stdin.write(b"\n")  # both end


def test_cpu_time_counts_all_threads_of_this_process() -> None:
    """What we use up is seen, to the nanosecond."""
    before = machine.cpu_ns([os.getpid()]), machine.wanted_cpu_ns()
    sum(range(1_000_000))
    assert machine.cpu_ns([os.getpid()]) > before[0]
    assert machine.wanted_cpu_ns() > before[1]


@pytest.mark.slow
def test_the_whole_harness(tmp_path: Path) -> None:
    """One short run against the real balancer: a figure, no failure, no process left."""
    result = tmp_path / "result.json"
    chart = tmp_path / "chart.svg"
    options = ["--quick", "--only", "connect", "--proxies", "rdpbalancer", "--rounds", "1", "--duration", "1"]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", *options, "--json", str(result), "--svg", str(chart)],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
        cwd=Path(__file__).parents[3],
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert (0, []) == (done.returncode, list(tmp_path.glob("bench-*"))), done.stdout + done.stderr
    assert "CPU per connection" in done.stdout
    assert '"cpu_us"' in result.read_text()
    assert chart.read_text().startswith("<svg")
