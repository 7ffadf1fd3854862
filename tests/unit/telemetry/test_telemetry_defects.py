"""What nobody has caught reaches the log."""

import io
import json
import subprocess
import sys
from typing import Any

import pytest

from rdpbalancer.telemetry.defects import MOST_A_MINUTE, Defects
from rdpbalancer.telemetry.events import Events
from tests.unit.telemetry.samples import lines

_PROGRAM = """
import asyncio, logging, sys, threading, warnings
from rdpbalancer.telemetry import defects, logs
from rdpbalancer.telemetry.events import Events

class Raises:
    def __del__(self):
        raise ValueError("in a finalizer")

def fail(what):
    raise RuntimeError(what)

async def main():
    logs.configure(log_format="json", level="info", process="router")
    defects.report(Events(), ends=True)
    loop = asyncio.get_running_loop()
    loop.call_soon(fail, "in a callback")
    task = loop.create_task(asyncio.sleep(0), name="hopeless")
    await task
    thread = threading.Thread(target=fail, args=("in a thread",), name="helper")
    thread.start()
    thread.join()
    Raises()
    logging.getLogger("library").error("said by %s", "a library")
    warnings.warn("an old way", DeprecationWarning)
    raise KeyError("at the end")

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def told() -> list[dict[str, Any]]:
    """What a process says on standard error that fails in every way."""
    done = subprocess.run([sys.executable, "-c", _PROGRAM], check=False, capture_output=True, text=True)
    assert 1 == done.returncode
    return [json.loads(line) for line in done.stderr.splitlines()]  # every line is JSON


@pytest.mark.parametrize(
    ("detail", "where"),
    [
        ("RuntimeError: in a callback", "Exception in callback"),
        ("RuntimeError: in a thread", "the thread helper"),
        ("ValueError: in a finalizer", "Raises.__del__"),
        ("KeyError: 'at the end'", "the process ends"),
    ],
)
def test_an_error_nobody_has_caught(told: list[dict[str, Any]], detail: str, where: str) -> None:
    """It is an event with its traceback, wherever it was raised."""
    (line,) = [line for line in told if line.get("detail") == detail]
    assert ("error", "internal_error", "router") == (line["level"], line["event"], line["process"])
    assert where in line["where"]
    assert "Traceback" in line["exception"]


@pytest.mark.parametrize(("level", "said"), [("error", "said by a library"), ("warning", "an old way")])
def test_what_a_library_says(told: list[dict[str, Any]], level: str, said: str) -> None:
    """By `logging` or `warnings`."""
    (line,) = [line for line in told if said in line["detail"]]
    assert (level, "library_message") == (line["level"], line["event"])


def test_a_defect_in_every_packet_does_not_fill_the_disk(log: io.StringIO) -> None:
    """So many a minute are told, the next one says how many were not."""
    now = [0.0]
    defects = Defects(Events(), clock=lambda: now[0])
    for _ in range(MOST_A_MINUTE + 70):
        defects.tell(ValueError("broken"))
    assert MOST_A_MINUTE == len(lines(log))
    now[0] = 60.0
    defects.tell(ValueError("broken"))
    assert 70 == lines(log)[-1]["suppressed"]
    defects.tell(ValueError("broken"))
    assert "suppressed" not in lines(log)[-1]
