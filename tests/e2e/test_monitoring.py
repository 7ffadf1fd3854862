"""What the documentation tells operators to run, with the programs that they run."""

import os
import re
import shlex
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Final

import pytest

from tests.support.balancer import Balancer
from tests.support.processes import Processes, free_port
from tests.support.programs import require
from tests.support.wait import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(60)]

_REPOSITORY: Final = Path(__file__).parents[2]
_ALERTS: Final = _REPOSITORY / "contrib" / "prometheus"
_LOGROTATE: Final = _REPOSITORY / "config" / "rdpbalancer.logrotate"
_LOGS_PAGE: Final = _REPOSITORY / "docs" / "reference" / "logs.md"


def run(*command: str, stdin: str = "", cwd: Path = _REPOSITORY, **environ: str) -> str:
    """Run a program to its good end and return what it says."""
    done = subprocess.run(
        command,
        check=False,
        capture_output=True,
        text=True,
        timeout=30,
        input=stdin,
        cwd=cwd,
        env={**os.environ, **environ},
    )
    assert 0 == done.returncode, done.stdout + done.stderr
    return done.stdout + done.stderr


# ---- Prometheus ----------------------------------------------------------------------------------------


def test_prometheus_accepts_the_alert_rules() -> None:
    """`promtool check rules` has nothing against them."""
    assert "SUCCESS" in run(require("promtool"), "check", "rules", "alerts.yml", cwd=_ALERTS)


def test_alerts_fire_when_they_should_and_only_then() -> None:
    """`promtool test rules`: each fires in its own trouble, and none in a farm in which all is well."""
    assert "SUCCESS" in run(require("promtool"), "test", "rules", "alerts_test.yml", cwd=_ALERTS)


# ---- HAProxy in front ----------------------------------------------------------------------------------


def test_checks_of_a_haproxy_in_front_are_counted_as_the_page_says(
    tmp_path: Path, processes: Processes
) -> None:
    """`send-proxy-v2 check` never fails on us, and is a `reset` without a line at the default level."""
    haproxy = require("haproxy")
    real = {"name": "t", "address": "127.0.0.1:1"}
    balancer = Balancer(
        tmp_path, [{"name": "s", "accept_proxy": ["127.0.0.1"], "real_servers": [real]}], level="info"
    )
    process = balancer.start()
    configuration = tmp_path / "haproxy.cfg"
    configuration.write_text(
        "defaults\n mode tcp\n timeout connect 5s\n timeout client 5s\n timeout server 5s\n"
        f"listen front\n bind 127.0.0.1:{free_port()}\n"
        f" server rdp1 {balancer.endpoint('s')} send-proxy-v2 check inter 100ms\n"
    )
    front = processes.start(haproxy, "-db", "-f", str(configuration))
    failures: dict[str, int] = {}

    def counted() -> bool:
        with urllib.request.urlopen(f"http://{balancer.metrics}/metrics", timeout=5) as answer:
            page = answer.read().decode()
        for reason, count in re.findall(r'handshake_failures_total{reason="([a-z-]+)",.*} ([0-9.]+)', page):
            failures[reason] = int(float(count))
        return sum(failures.values()) >= 10

    wait_until(counted, 15, "ten checks")
    assert {"reset"} == {reason for reason, count in failures.items() if count}, failures
    assert "connection_failed" not in process.output()
    assert "DOWN" not in front.output()
    front.stop()
    balancer.stop()


# ---- the journal ---------------------------------------------------------------------------------------


def test_the_journal_can_be_searched_as_shown() -> None:
    """The page's jq command finds session records between lines that are no JSON: systemd's own."""
    require("jq")
    shown = re.search(r"^\$ journalctl [^|]*\| (jq .*)$", _LOGS_PAGE.read_text(), re.MULTILINE)
    assert shown is not None
    journal = [
        "Started rdpbalancer.service - RDP load balancer.",
        '{"event":"session_closed","close_reason":"eof","session":"a"}',
        "42",
        "rdpbalancer: no such file",
        '{"event":"session_closed","close_reason":"reset","session":"b"}',
    ]
    found = run(*shlex.split(shown[1]), "-c", stdin="\n".join([*journal, ""]))
    assert found == journal[-1] + "\n"


# ---- logrotate -----------------------------------------------------------------------------------------


def test_logrotate_rotates_the_log_and_loses_no_line(tmp_path: Path, processes: Processes) -> None:
    """The shipped file, run by logrotate itself: the service is told, and goes on in the new file.

    Only the place of the log, its owner and the program that passes the signal on are the test's.
    """
    logrotate = require("logrotate")
    folder = tmp_path / "log"
    folder.mkdir(mode=0o755)
    log = folder / "rdpbalancer.log"
    balancer = Balancer(
        tmp_path, [{"name": "s", "real_servers": [{"name": "t", "address": "127.0.0.1:1"}]}], log_file=log
    )
    balancer.process = processes.start(
        sys.executable, "-m", "rdpbalancer", "run", "-c", str(balancer.configuration), cwd=_REPOSITORY
    )
    balancer.process.wait_for(lambda: log.exists() and "router_ready" in log.read_text(), 20, "router_ready")

    told = tmp_path / "told"
    systemctl = tmp_path / "systemctl"
    systemctl.write_text(f'#!/bin/sh\necho "$@" >>{told}\nkill -USR1 {balancer.process.pid}\n')
    systemctl.chmod(0o755)
    configuration = tmp_path / "logrotate.conf"
    owner = f"{_LOGROTATE.owner()} {_LOGROTATE.group()}" if os.geteuid() == 0 else ""
    text = _LOGROTATE.read_text().replace("/var/log/rdpbalancer", str(folder))
    text = text.replace("su rdpbalancer rdpbalancer", f"su {owner}" if owner else "")
    configuration.write_text(text)
    configuration.chmod(0o644)

    for rotation in (1, 2):
        before = log.read_text()
        path = f"{tmp_path}:{os.environ['PATH']}"
        run(logrotate, "--force", "--state", str(tmp_path / "rotated"), str(configuration), PATH=path)
        wait_until(log.exists, 10, "a new log file")
        assert before == Path(f"{log}.1").read_text()
        told_anew = lambda: balancer.cli("online", "s/t") and '"operator"' in log.read_text()  # noqa: E731
        wait_until(told_anew, 10, "an operator's word in the new file")
        assert rotation == len(told.read_text().splitlines())
    assert "kill --kill-who=main --signal=USR1 rdpbalancer" == told.read_text().splitlines()[0]
    assert (folder / "rdpbalancer.log.2.gz").exists()
    assert "log_not_reopened" not in log.read_text()
    balancer.stop()
