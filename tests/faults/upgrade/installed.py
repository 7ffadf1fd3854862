"""A balancer that runs from a copy of the package, in which a test can install something else."""

import shutil
import sys
from pathlib import Path
from typing import Any

import rdpbalancer
from tests.support.processes import RealProcess
from tests.support.running_balancer import RunningBalancer

_START_TIMEOUT_S = 15


class InstalledBalancer(RunningBalancer):
    """Its programs are started in `site`, where ``python -m`` looks first: so the copy there is what runs."""

    def __init__(self, folder: Path, **keys: Any) -> None:
        super().__init__(folder, **keys)
        self.site = folder / "site"
        shutil.copytree(
            Path(rdpbalancer.__file__).parent,
            self.site / "rdpbalancer",
            ignore=shutil.ignore_patterns("__pycache__"),
        )

    def start(self) -> RealProcess:
        """Start the copy."""
        self._starts += 1
        process = RealProcess(
            [sys.executable, "-m", "rdpbalancer", "run", "-c", str(self.configuration)],
            log=self.folder / f"rdpbalancer-{self._starts}.log",
            cwd=self.site,
        )
        self.process = process
        process.wait_for(self._answers, _START_TIMEOUT_S, "rdpbalancer answers `status`")
        return process

    def install(self, module: str, old: str, new: str) -> None:
        """Replace `old`, which occurs once in that module of the copy, as an update of the package would."""
        file = self.site / "rdpbalancer" / f"{module}.py"
        text = file.read_text()
        assert 1 == text.count(old), f"{module}: {old!r} occurs {text.count(old)} times"
        file.write_text(text.replace(old, new))
