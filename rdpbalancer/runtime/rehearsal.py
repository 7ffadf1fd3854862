"""The trial start of newly installed code: its processes run for a moment, on a copy of the state.

Nobody can connect to them, and they ask nobody anything: no listener but a control socket of their own, no
health checks, no agents. What cannot be copied (a full disk) is left out, for it is no fault of the new code.
"""

import asyncio
import contextlib
import json
import shutil
import sqlite3
import tempfile
import time
from pathlib import Path
from typing import Any

from rdpbalancer.errors import StoreError
from rdpbalancer.runtime import program
from rdpbalancer.runtime.notify import Notifier
from rdpbalancer.runtime.running_config import RunningConfig
from rdpbalancer.runtime.state_service import FILE_NAME
from rdpbalancer.runtime.supervisor import Supervisor
from rdpbalancer.runtime.supervisor_setup import prepare_folders
from rdpbalancer.runtime.trial import READY_S
from rdpbalancer.settings.load import loads_kept
from rdpbalancer.stores.sqlite_backend import open_file
from rdpbalancer.tasks import spawn
from rdpbalancer.telemetry import logs
from rdpbalancer.telemetry.events import Events

_PREFIX = ".rehearsal-"
_POLL_S = 0.02
# Beside the bindings there are keys of some bytes.
_SMALL_FILE_BYTES = 1024 * 1024
# What the supervisor says after the reason; nothing goes on here.
_GOES_ON = "; a new one is started"
_FAILURES = ("router_ended", "relay_ended", "process_stuck", "process_not_started")
# A control socket's path has 108 bytes (unix(7)); ours takes 42 of them from the folder on.
_FOLDER_CHARS = 64


async def rehearse(in_use: RunningConfig) -> str:
    """Run this code beside the service; return why it does not work, or nothing."""
    state_dir = in_use.settings.global_.state_dir
    for left in state_dir.glob(f"{_PREFIX}*"):  # by one that was killed
        shutil.rmtree(left, ignore_errors=True)
    home = state_dir if len(str(state_dir)) <= _FOLDER_CHARS else None
    try:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=home))
    except OSError:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
    try:
        trial = await asyncio.to_thread(_apart, in_use, folder)
        return await asyncio.to_thread(_unreadable, folder / "state", state_dir) or await _run(trial)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def _run(active: RunningConfig) -> str:
    logs.configure(log_format="json", level="warning", process="rehearsal")
    prepare_folders(active)
    events = Events()
    supervisor = Supervisor(
        active, events=events, notifier=Notifier({}), program=program.own(), listening=False
    )
    running = spawn(supervisor.run(), name="rehearsal", on_error=_told_below)
    problem = ""
    try:
        async with asyncio.timeout(READY_S):
            while not (supervisor.router_ready or running.done() or problem):
                await asyncio.sleep(_POLL_S)
                problem = _failure(events)
    except TimeoutError:
        problem = f"its router was not ready within {READY_S:.0f} s of a trial start"
    supervisor.end_now()
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.wait([running])
    if not problem and (error := running.exception()) is not None:
        problem = f"its supervisor failed: {type(error).__name__}: {error}"
    return problem


def _failure(events: Events) -> str:
    for event in events.recent():
        if event["event"] in _FAILURES:
            how = str(event.get("detail", "")).partition(_GOES_ON)[0]
            return f"in a trial start, {event['event'].replace('_', ' ')}: {how}"
    return ""


def _told_below(_error: BaseException) -> None:
    """Report nothing here: the result of the rehearsal says it."""


def _apart(in_use: RunningConfig, folder: Path) -> RunningConfig:
    """Return the configuration in use with folders of its own, and no one to ask."""
    document: dict[str, Any] = json.loads(in_use.text)
    state_dir = in_use.settings.global_.state_dir
    document["global"] = {
        **(document.get("global") or {}),
        "state_dir": str(folder / "state"),
        "runtime_dir": str(folder),
        "relays": 1,
        "shutdown_timeout": "0s",
        "log": {"format": "json", "level": "warning"},
    }
    for service in document["virtual_services"]:
        service["health_check"] = {"type": "none"}
        service.pop("feedback_agent", None)
        for server in service["real_servers"]:
            server.pop("feedback_agent", None)
            server.pop("health_check", None)
    _copy_state(state_dir, folder / "state")
    text = json.dumps(document, ensure_ascii=False)
    return RunningConfig(in_use.path, loads_kept(text), text)


def _unreadable(copied: Path, state_dir: Path) -> str:
    """Return why this code cannot read the state; nothing if it can, or if there is none to be read.

    A router goes on without: everybody's desktop and every server's maintenance would be forgotten.
    """
    file = copied / FILE_NAME
    if not file.exists():
        return ""
    try:
        opened, _ = open_file(file, wall=time.time())
    except StoreError as error:
        return f"it cannot read the state: {str(error).replace(str(copied), str(state_dir))}"
    opened.close()
    return ""


def _copy_state(source: Path, target: Path) -> None:
    target.mkdir()
    for file in source.glob("*"):
        try:
            if file.suffix == ".db":
                _copy_database(file, target / file.name)
            elif file.is_file() and file.stat().st_size <= _SMALL_FILE_BYTES and file.suffix != ".lock":
                shutil.copyfile(file, target / file.name)
        except (OSError, sqlite3.Error):
            (target / file.name).unlink(missing_ok=True)


def _copy_database(source: Path, target: Path) -> None:
    with (
        contextlib.closing(sqlite3.connect(f"file:{source}?mode=ro", uri=True)) as old,
        contextlib.closing(sqlite3.connect(target)) as new,
    ):
        old.backup(new)
