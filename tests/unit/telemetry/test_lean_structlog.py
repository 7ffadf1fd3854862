"""What the processes of the service hold of the libraries behind their logs."""

import subprocess
import sys


def _printed(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30
    )
    return done.stdout.strip()


def test_logging_does_not_load_rich() -> None:
    code = "import sys, rdpbalancer.telemetry.logs; print([name for name in sys.modules if 'rich' in name])"
    assert _printed(code) == "[]"


def test_rich_can_still_be_imported_afterwards() -> None:
    code = "import rdpbalancer.telemetry.logs; import rich.console; print(rich.console.Console.__name__)"
    assert _printed(code) == "Console"


def test_rich_that_is_loaded_already_stays() -> None:
    code = "import rich, sys, rdpbalancer.telemetry.logs; print(sys.modules['rich'] is rich)"
    assert _printed(code) == "True"
