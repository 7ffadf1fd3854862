"""Upgrading a balancer and looking at what became of it."""

from subprocess import CompletedProcess
from typing import Any

from tests.support.processes import command_line, is_alive
from tests.support.running_balancer import RunningBalancer, Vip
from tests.support.wait import wait_until_async


async def upgraded(balancer: RunningBalancer) -> dict[str, Any]:
    """Run ``upgrade --wait``, which has to succeed, and return the status afterwards."""
    before = await balancer.status()
    done = await balancer.command("upgrade", "--wait")
    assert 0 == done.returncode, f"{done.stdout}{done.stderr}; {balancer.tail()}"
    after = await balancer.status()
    assert before["generation"] + 1 == after["generation"]
    assert before["pid"] == after["pid"]
    assert before["router"] != after["router"]
    assert not set(before["relays"]) & set(after["relays"])
    return after


async def refused(balancer: RunningBalancer) -> CompletedProcess[str]:
    """Run ``upgrade --wait``, which has to fail and to change nothing."""
    before = await balancer.status()
    done = await balancer.command("upgrade", "--wait")
    assert 1 == done.returncode, f"{done.stdout}{done.stderr}; {balancer.tail()}"
    after = await balancer.status()
    for field in ("pid", "router", "relays", "generation", "version", "sessions"):
        assert before[field] == after[field], field
    return done


async def gone(pids: set[int], timeout_s: float = 10) -> None:
    """Wait for the end of processes."""
    await wait_until_async(
        lambda: not any(is_alive(pid) for pid in pids),
        timeout_s,
        lambda: f"the end of {[(pid, command_line(pid)) for pid in pids if is_alive(pid)]}",
    )


def one_record_each(vip: Vip, count: int) -> list[dict[str, Any]]:
    """Check that `count` sessions have one record each, and return them."""
    records = vip.records()
    assert count == len(records)
    assert count == len({record["session"] for record in records})
    return records
