"""A control server that says what the test has written down, and the command line run against it."""

import json
import socket
import sys
import threading
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import pytest
from click.testing import CliRunner

from rdpbalancer import cli
from tests.support import terminal
from tests.support.terminal import PATIENCE_S, Done


class Refusal:
    """An answer that is an error."""

    def __init__(self, code: str, message: str) -> None:
        self.error = {"code": code, "message": message}


class FakeService:
    """Answers on a real Unix socket, in a thread. `answers`: by verb, one after the other, the last for ever.

    None as an answer: the connection is closed instead.
    """

    def __init__(self, path: Path, answers: Mapping[str, list[Any]]) -> None:
        self.path = path
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self._answers: defaultdict[str, list[Any]] = defaultdict(list)
        for verb, given in answers.items():
            self._answers[verb] = list(given)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with socket.socket(socket.AF_UNIX) as last:
            last.connect(str(self.path))
            last.sendall(b'{"verb": "end"}\n')
        self._thread.join(PATIENCE_S)
        self._listener.close()

    def times(self, verb: str) -> int:
        """Return how often a verb was asked for."""
        return sum(asked == verb for asked, _ in self.asked)

    def params(self, verb: str) -> list[dict[str, Any]]:
        """Return the parameters of every request of a verb."""
        return [params for asked, params in self.asked if asked == verb]

    def _serve(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            with connection, connection.makefile("rb") as lines:
                for line in lines:
                    request = json.loads(line)
                    if request["verb"] == "end":
                        return
                    if not self._answer(connection, request):
                        break

    def _answer(self, connection: socket.socket, request: dict[str, Any]) -> bool:
        self.asked.append((request["verb"], request["params"]))
        given = self._answers[request["verb"]]
        result = None if not given else given.pop(0) if len(given) > 1 else given[0]
        if result is None:
            return False
        if isinstance(result, Refusal):
            answer: dict[str, Any] = {"ok": False, "error": result.error}
        else:
            answer = {"ok": True, "result": result}
        connection.sendall(json.dumps(answer).encode() + b"\n")
        return True


def command(*args: str, service: FakeService | Path | None = None, **environ: str) -> Done:
    """Run the command line in this process, as its entry point does, with its output in a pipe."""
    where = service.path if isinstance(service, FakeService) else service
    words = ["rdpbalancer", *(["--socket", str(where)] if where else []), *args]
    status = 0
    with pytest.MonkeyPatch.context() as patch, CliRunner().isolation(env=environ) as (out, err, *_):
        patch.setattr(sys, "argv", words)
        try:
            cli.main()
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
        sys.stdout.flush()
        sys.stderr.flush()
        said, complained = out.getvalue().decode(), err.getvalue().decode()
    return Done(status, said, complained)


def run(tmp_path: Path, *args: str, **answers: list[Any]) -> tuple[Done, FakeService]:
    """Run a command against a service that answers so (`set_state` stands for `set-state`)."""
    scripted = {verb.replace("_", "-"): given for verb, given in answers.items()}
    with FakeService(tmp_path / "s", scripted) as service:
        return command(*args, service=service), service


def on_a_terminal(
    *args: str,
    service: FakeService,
    columns: int = 200,
    typed: str | None = None,
    errors: bool = False,
    environ: Mapping[str, str] | None = None,
) -> Done:
    """Run the command line as a process whose output is a terminal: see tests.support.terminal."""
    return terminal.run(
        *args, socket=service.path, columns=columns, typed=typed, errors=errors, environ=environ
    )
