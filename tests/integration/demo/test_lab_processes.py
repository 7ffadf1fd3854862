"""`rdpbalancer lab`: its commands as real processes, against each other."""

import re
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.processes import Processes, RealProcess, free_port

LISTENS = r"listens on (127\.0\.0\.1:\d+)"


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    """Real processes, ended after the test."""
    with Processes(tmp_path) as started:
        yield started


def start(processes: Processes, *args: str) -> RealProcess:
    """Start `rdpbalancer ARGS`."""
    return processes.start(sys.executable, "-m", "rdpbalancer", *args)


def start_server(processes: Processes, *args: str) -> tuple[RealProcess, str]:
    """Start a lab server; return it and its address."""
    server = start(processes, "lab", "server", *args)
    server.wait_for_output(LISTENS)
    found = re.search(LISTENS, server.output())
    assert found
    return server, found[1]


def run(processes: Processes, *args: str) -> tuple[int, str]:
    """Run a command to its end; return exit status and output."""
    process = start(processes, *args)
    return process.wait(30), process.output()


def test_a_user_comes_back_to_the_desktop(processes: Processes) -> None:
    """Server and client tell the same story; Ctrl-C ends the server with a summary and exit status 0."""
    server, address = start_server(processes, "--name", "tsX", "--security", "nla")
    status, output = run(
        processes, "lab", "client", address, "--user", "alice", "--visits", "2", "--source", "127.9.9.9"
    )
    assert (
        0,
        ["alice: desktop tsX-1 on tsX (new)", "alice: desktop tsX-1 on tsX (back, visit 2)"],
    ) == (status, output.splitlines())
    assert 0 == server.stop(signal_number=signal.SIGINT)
    told = [re.sub(r"127\.9\.9\.9:\d+", "HERE", line) for line in server.output().splitlines()]
    assert [
        f"tsX listens on {address} (nla, desktop-login)",
        "HERE: connected (cookie alice, protocols 11)",
        "HERE: alice on desktop tsX-1 (new)",
        "HERE: gone",
        "HERE: connected (cookie alice, protocols 11)",
        "HERE: alice on desktop tsX-1 (back, visit 2)",
        "HERE: gone",
        "tsX: 2 requests, 0 health checks, 2 logins to 1 desktops, 0 redirections",
    ] == told


def test_many_users_are_summed_up(processes: Processes) -> None:
    """One line for all of them."""
    _, address = start_server(processes)
    status, output = run(processes, "lab", "client", address, "--users", "20", "--visits", "3", "--seed", "1")
    assert (0, "20 users, 60 visits: ts1 60\n") == (status, output)


def test_a_broker_sends_users_elsewhere(processes: Processes) -> None:
    """By a routing token, to the same address: there the user is in."""
    server, address = start_server(processes, "--behaviour", "broker", "--elsewhere", "127.0.0.9:3389")
    status, output = run(processes, "lab", "client", address, "--user", "alice")
    assert (0, "alice: desktop ts1-1 on ts1 (new, redirected 1 time)\n") == (status, output)
    server.wait_for_output("sent elsewhere")
    assert re.search(r"connected \(no cookie, token b'Cookie: msts=\d+\.\d+\.0+', ", server.output())


def test_exit_status_69_when_unreachable_and_1_when_refused(processes: Processes) -> None:
    """A service that cannot be reached is told from one that lets nobody in."""
    status, output = run(processes, "lab", "client", f"127.0.0.1:{free_port()}", "--user", "alice")
    assert (69, "alice: no desktop (refused)\n") == (status, output)
    _, address = start_server(processes, "--security", "failure:2")
    status, output = run(processes, "lab", "client", address, "--users", "2")
    assert (1, ["2 users, 0 visits: nobody landed", "no desktop: 2 negotiation-failure"]) == (
        status,
        output.splitlines(),
    )


def test_a_session_that_breaks_is_told(processes: Processes) -> None:
    """With what was wrong, exit status 1."""
    _, address = start_server(processes, "--fault", "reset-after", "--fault-after", "2000")
    status, output = run(processes, "lab", "client", address, "--user", "alice")
    assert (1, True) == (status, "rdpbalancer: the peer broke the connection" in output), output
    assert "Traceback" not in output


def test_an_agent_answers(processes: Processes) -> None:
    """Alone, or beside a server."""
    agent = start(processes, "lab", "agent", "--reply", "drain #lunch")
    server, _ = start_server(processes, "--agent-port", "0", "--agent-reply", "42%")
    for process, expected in ((agent, b"drain #lunch\n"), (server, b"42%\n")):
        process.wait_for_output(r"feedback agent on 127\.0\.0\.1:\d+ answers ")
        found = re.search(r"agent on (127\.0\.0\.1):(\d+)", process.output())
        assert found
        with socket.create_connection((found[1], int(found[2])), timeout=5) as asking:
            assert expected == asking.makefile("rb").read()
    assert 0 == agent.stop(signal_number=signal.SIGINT)
    assert "asked 1 times" == agent.output().splitlines()[-1]


def test_a_taken_address_is_an_error_in_words(processes: Processes) -> None:
    """Exit status 1, no traceback."""
    _, address = start_server(processes)
    status, output = run(processes, "lab", "server", "--listen", address)
    assert (1, True) == (status, output.startswith(f"rdpbalancer: cannot listen on {address}: ")), output


def test_quiet_prints_nothing(processes: Processes) -> None:
    """But errors."""
    _, address = start_server(processes)
    assert (0, "") == run(processes, "--quiet", "lab", "client", address, "--user", "alice")


def test_a_population_that_stays_reports_its_sessions(processes: Processes) -> None:
    """They tell when they are there, can be looked at and ended, and say whose session was ended."""
    server, address = start_server(processes, "--name", "tsX")
    port = address.rpartition(":")[2]
    client = start(processes, "lab", "client", f"localhost:{port}", "--users", "3", "--hold", "5m")
    client.wait_for_output("3 of 3 users there; each stays for 5m 00s")
    server.stop(signal_number=signal.SIGINT)
    assert 1 == client.wait(30)
    assert (
        "3 users, 3 visits: tsX 3\n3 sessions ended early: user00001, user00002, user00003" in client.output()
    )


def test_a_population_that_stays_ends_at_ctrl_c(processes: Processes) -> None:
    """Then they leave in order: all has gone well."""
    _, address = start_server(processes, "--name", "tsX")
    client = start(processes, "lab", "client", address, "--user", "alice", "--hold", "5m")
    client.wait_for_output("1 of 1 user there")
    assert 0 == client.stop(signal_number=signal.SIGINT)
    assert "alice: desktop tsX-1 on tsX (new)" in client.output()
