"""The systemd unit against the code it starts: times that fit, and nothing that is not needed."""

import re
from typing import Final

import pytest

from rdpbalancer.cli.output import EXIT_CONFIGURATION
from rdpbalancer.runtime import liveness, restarts, supervisor
from rdpbalancer.settings.load import load
from rdpbalancer.settings.units import parse_duration_s
from tests.support.unitfile import SERVICE, read_unit
from tests.unit.packaging.pages import DOCS, REPOSITORY

_PAGE: Final = DOCS / "how-to" / "install-systemd.md"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Type", ["notify"]),
        ("NotifyAccess", ["main"]),
        ("KillMode", ["mixed"]),
        ("Restart", ["on-failure"]),
        # A mistake in the configuration: `systemctl --failed` shows it, and no loop fills the journal.
        ("RestartPreventExitStatus", [str(EXIT_CONFIGURATION)]),
        ("OOMPolicy", ["continue"]),
        ("FileDescriptorStoreMax", ["128"]),
        # A static user in the machine's own user namespace: the control socket has to know who asks.
        ("User", ["rdpbalancer"]),
        ("Group", ["rdpbalancer"]),
        ("RuntimeDirectory", ["rdpbalancer"]),
        ("StateDirectory", ["rdpbalancer"]),
        ("CapabilityBoundingSet", [""]),
        ("AmbientCapabilities", [""]),
        ("NoNewPrivileges", ["yes"]),
        ("RestrictAddressFamilies", ["AF_INET AF_INET6 AF_UNIX"]),
    ],
)
def test_the_unit_says(name: str, expected: list[str]) -> None:
    """What the service's promises rest on."""
    assert expected == read_unit()[name]


@pytest.mark.parametrize("name", ["DynamicUser", "PrivateUsers"])
def test_the_unit_does_not_say(name: str) -> None:
    """What would hide from the service who asks on its control socket."""
    assert name not in read_unit()


def test_a_reload_needs_no_other_program() -> None:
    """Debian's smallest installation has no /bin/kill; a failed reload has to fail the service manager's."""
    program = read_unit()["ExecStart"][0].split()[0]
    config = read_unit()["ExecStart"][0].split()[-1]
    assert [f"{program} --quiet reload -c {config}"] == read_unit()["ExecReload"]


def test_a_stop_has_the_time_it_may_take() -> None:
    """The service manager kills later than the slowest orderly stop: sessions, last records, relays."""
    settings = load(REPOSITORY / "config" / "rdpbalancer.yaml", environ={})
    slowest_s = settings.global_.shutdown_timeout + supervisor.ROUTER_GRACE_S
    slowest_s += supervisor.STOP_GRACE_S
    assert slowest_s < parse_duration_s(read_unit()["TimeoutStopSec"][0])


def test_the_watchdog_leaves_the_supervisor_its_time() -> None:
    """The service manager steps in after the supervisor has had time to replace a stuck process."""
    replaced_s = liveness.HANG_S + max(restarts.RESTART_DELAYS_S) + 2 * liveness.PING_INTERVAL_S
    assert replaced_s < parse_duration_s(read_unit()["WatchdogSec"][0])


def test_the_folders_are_those_of_the_configuration() -> None:
    """The default folders are the ones that systemd makes writable."""
    settings = load(REPOSITORY / "config" / "minimal.yaml", environ={}).global_
    unit = read_unit()
    assert f"/run/{unit['RuntimeDirectory'][0]}" == str(settings.runtime_dir)
    assert f"/var/lib/{unit['StateDirectory'][0]}" == str(settings.state_dir)


def test_the_lines_for_port_443_are_the_same_everywhere() -> None:
    """The unit's comment and the page tell the same."""
    page = _PAGE.read_text(encoding="utf-8")
    shown = re.search(r"```ini\n\[Service\]\n(.*?)```", page, re.DOTALL)
    assert shown is not None
    comment = (
        SERVICE.read_text(encoding="utf-8")
        .partition("[Service]\n#   ")[2]
        .partition("\nCapabilityBoundingSet=\n")[0]
    )
    assert shown[1].split() == comment.replace("#", "").split()


def test_the_page_names_the_unit_s_files() -> None:
    """The program is where the page installs it, and the user is the one the page adds people to."""
    page = _PAGE.read_text(encoding="utf-8")
    program = read_unit()["ExecStart"][0].split()[0]
    assert f"python3 -m venv {program.removesuffix('/bin/rdpbalancer')}" in page
    assert f"usermod -aG {read_unit()['User'][0]} " in page
    assert re.search(r"^u +rdpbalancer ", SERVICE.with_suffix(".sysusers").read_text(), re.MULTILINE)
