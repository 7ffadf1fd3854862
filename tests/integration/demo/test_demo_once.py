"""`rdpbalancer demo --once`: a script, its steps in words, and a verdict that can fail."""

import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.demo.shows import END_S, Show, short_folder

pytestmark = pytest.mark.slow

VERDICT = re.compile(
    r"verdict: (?P<users>\d+) users, (?P<visits>\d+) visits, every return reached the user's own desktop"
)


@pytest.fixture
def folder() -> Iterator[Path]:
    """Where the demonstration may put temporary files."""
    with short_folder() as made:
        yield made


def test_every_promise_is_kept(folder: Path) -> None:
    """The script ends with a good verdict, its exit status says so, and nothing is left behind."""
    with Show(folder, "--once") as show:
        assert 0 == show.process.wait(END_S), show.process.describe()
        verdict = VERDICT.fullmatch(show.lines[-1])
        assert verdict, show.lines[-1]
        assert (39, 105) == (int(verdict["users"]), int(verdict["visits"]))
        checks = [line.split()[0] for line in show.lines if line.startswith("    ")]
        assert ["✓"] * 21 == checks, show.process.output()
        assert 8 == sum(re.match(r" \d\. ", line) is not None for line in show.lines)
        assert "\x1b" not in show.process.output()
        assert [] == show.left_over()


@pytest.mark.parametrize("missing", ["persistence", "desktops"])
def test_the_verdict_fails_where_users_do_not_find_their_desktops(folder: Path, missing: str) -> None:
    """Without persistence, or with servers that forget desktops, it says how many were lost, and exits 1."""
    with Show(folder, "--once", "--without", missing) as show:
        assert 1 == show.process.wait(END_S), show.process.describe()
        found = re.match(
            r"verdict: FAILED: (\d+) of 66 returns did not reach the user's own desktop: \w+ was on ts",
            show.lines[-1],
        )
        assert found, show.lines[-1]
        assert 10 <= int(found[1]) <= 66
        assert "    ✗ not so: all 30 are back on the desktop they had left" in show.process.output()
        assert [] == show.left_over()


def test_an_interrupted_script_ends_with_a_failure(folder: Path) -> None:
    """Ctrl-C half way: the verdict says so, and nothing is left behind."""
    with Show(folder, "--once") as show:
        show.process.wait_for_output(r"(?m)^ 1\. ", 20)
        show.wait_for_balancer()
        assert 1 == show.process.stop(signal_number=signal.SIGINT, grace_s=10)
        assert "verdict: FAILED: something went wrong: interrupted before the end" == show.lines[-1]
        assert [] == show.left_over()


@pytest.mark.parametrize("how", ["--once", "--plain"])
def test_a_balancer_that_does_not_start_shows_its_log(folder: Path, how: str) -> None:
    """Its own words say why (here: a path too long for a socket), and the exit status is 1."""
    deep = folder / ("x" * 80)
    deep.mkdir()
    with Show(folder, how, env={"TMPDIR": str(deep)}) as show:
        assert 1 == show.process.wait(END_S), show.process.describe()
        output = show.process.output()
        assert "the balancer did not start; its log:" in output
        assert "runtime_dir" in output
        assert "Traceback" not in output
        assert ["x" * 80] == [path.name for path in folder.iterdir()]
        assert [] == list(deep.iterdir())
        assert [] == show.process.kill_children()
