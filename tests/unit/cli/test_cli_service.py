"""`check`, `schema`, `run` before it runs, and how fast the command line begins."""

import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from rdpbalancer import __version__
from rdpbalancer.cli.operate import reload_config
from rdpbalancer.cli.service import check_config, run_service
from tests.unit.cli.fake import command

GOOD = """\
virtual_services:
  - name: ts
    listen: "127.0.0.1:0"
    real_servers:
      - {name: ts1, address: "192.0.2.10:3389"}
      - {name: ts2, address: "192.0.2.11:3389"}
"""
BAD = """\
virtual_services:
  - name: ts
    listen: "127.0.0.1:0"
    modus: rdp
    real_servers:
      - {name: ts1, address: "192.0.2.10:3389", weight: 1000}
"""


def test_a_good_configuration(tmp_path: Path) -> None:
    """Exit status 0 and a line, or no line."""
    path = tmp_path / "rdpbalancer.yaml"
    path.write_text(GOOD)
    done = command("check", "-c", str(path))
    assert (0, "") == (done.status, done.err)
    assert f"{path}: good (1 virtual service, 2 real servers)\n" == done.out
    quiet = command("--quiet", "check", "-c", str(path))
    assert (0, "", "") == (quiet.status, quiet.out, quiet.err)


def test_the_file_may_stand_alone(tmp_path: Path) -> None:
    """`check FILE`, as `haproxy -c` and `nginx -t` are typed; but not two files."""
    path = tmp_path / "rdpbalancer.yaml"
    path.write_text(GOOD)
    assert command("check", "-c", str(path)) == command("check", str(path))
    both = command("check", str(path), "-c", str(path))
    assert (2, True) == (both.status, "one configuration at a time" in both.err)


@pytest.mark.parametrize("verb", ["check", "run"])
def test_every_error_comes_with_its_place(tmp_path: Path, verb: str) -> None:
    """Exit status 78, one line each, as editors and CI read it; `run` says the same and does not begin."""
    path = tmp_path / "rdpbalancer.yaml"
    path.write_text(BAD)
    done = command(verb, "-c", str(path))
    assert (78, "") == (done.status, done.out)
    first, second = done.err.splitlines()
    assert first.startswith(f"{path}:4:5: virtual_services[0].modus: ")
    assert "did you mean 'mode'" in first.replace('"', "'").replace("`", "'")
    assert second.startswith(f"{path}:6:57: virtual_services[0].real_servers[0].weight: ")


def test_all_files_are_checked(tmp_path: Path) -> None:
    """An error in conf.d is told with that file's name."""
    path, more = tmp_path / "rdpbalancer.yaml", tmp_path / "conf.d" / "more.yaml"
    path.write_text(GOOD)
    more.parent.mkdir()
    more.write_text("global: {relays: many}\n")
    done = command("check", "-c", str(path))
    assert 78 == done.status
    assert done.err.startswith(f"{more}:1:18: global.relays: ")


@pytest.mark.parametrize("what", ["missing", "a-folder", "not-text"])
def test_a_file_that_cannot_be_read(tmp_path: Path, what: str) -> None:
    """No traceback, whatever stands in its place."""
    path = tmp_path / "rdpbalancer.yaml"
    if what == "a-folder":
        path.mkdir()
    elif what == "not-text":
        path.write_bytes(b"\xff\xfe\x00")
    done = command("check", "-c", str(path))
    assert (2 if what == "a-folder" else 78) == done.status
    assert str(path) in done.err
    assert "Traceback" not in done.err


def test_the_environment_is_worked_in(tmp_path: Path) -> None:
    """`${ENV}` is this process's."""
    path = tmp_path / "rdpbalancer.yaml"
    path.write_text(GOOD.replace("192.0.2.10", "${TS1}"))
    assert 0 == command("check", "-c", str(path), TS1="192.0.2.20").status
    assert 78 == command("check", "-c", str(path)).status


def test_a_folder_that_cannot_be_made_is_no_mistake_in_the_file(tmp_path: Path) -> None:
    """Exit status 1: starting again may help, editing will not."""
    (tmp_path / "file").write_text("")
    path = tmp_path / "rdpbalancer.yaml"
    path.write_text(f"global: {{state_dir: {tmp_path}/file/state, runtime_dir: {tmp_path}/run}}\n" + GOOD)
    done = command("run", "-c", str(path))
    assert (1, "") == (done.status, done.out)
    why = f"global.state_dir: {tmp_path}/file/state cannot be used: Not a directory"
    assert f"rdpbalancer: error: folder: {why}; it has to be a folder that" in done.err


def test_errors_at_a_start_have_one_form(tmp_path: Path) -> None:
    """Program, `error`, a stable code, what is wrong: one line, and a log file is no mistake of the file."""
    path = tmp_path / "rdpbalancer.yaml"
    places = f"state_dir: {tmp_path}/state, runtime_dir: {tmp_path}/run"
    path.write_text(f"global: {{{places}, log: {{file: {tmp_path}/none/log}}}}\n" + GOOD)
    done = command("run", "-c", str(path))
    assert (1, "") == (done.status, done.out)
    (line,) = done.err.splitlines()
    assert line.startswith(f"rdpbalancer: error: log-file: global.log.file: {tmp_path}/none/log cannot be")


@pytest.mark.parametrize(
    "command", [check_config, run_service, reload_config], ids=lambda command: command.name
)
def test_a_file_that_may_not_be_read_is_no_wrong_usage(command: click.Command) -> None:
    """It is the reader that says so, with what to do and exit status 78, not the parser of the arguments."""
    files = [parameter.type for parameter in command.params if isinstance(parameter.type, click.Path)]
    assert files
    assert [] == [file for file in files if file.readable]


@pytest.mark.parametrize("content", [BAD, f"global: {{runtime_dir: /dev/null/x}}\n{GOOD}"])
def test_the_journal_knows_errors(tmp_path: Path, content: str) -> None:
    """`journalctl -p err` finds every line of a failed start: each has a priority where the journal reads."""
    path, journal = tmp_path / "rdpbalancer.yaml", tmp_path / "journal"
    path.write_text(content)
    arguments = [sys.executable, "-m", "rdpbalancer", "run", "-c", str(path)]
    for named in (True, False):
        with journal.open("w") as out:
            status = os.fstat(out.fileno())
            stream = f"{status.st_dev}:{status.st_ino}" if named else "1:1"
            environ = {**os.environ, "JOURNAL_STREAM": stream}
            subprocess.run(arguments, check=False, stderr=out, env=environ, timeout=30)
        lines = journal.read_text().splitlines()
        assert lines
        assert {named} == {line.startswith("<3>") for line in lines}


def test_the_schema_is_json() -> None:
    """For editors; it knows the sections and their keys."""
    done = command("schema")
    assert (0, "") == (done.status, done.err)
    schema = done.json
    assert {"global", "defaults", "virtual_services"} <= set(schema["properties"])


def test_version_and_help() -> None:
    """Every command has a line."""
    assert f"rdpbalancer, version {__version__}\n" == command("--version").out
    text = command("--help").out
    assert f"rdpbalancer, version {__version__}\n" == command("-V").out
    verbs = ("run", "check", "schema", "status", "show", "drain", "halt", "online", "weight", "kick")
    for verb in (*verbs, "persist", "reload", "upgrade", "demo", "lab", "token", "help"):
        (line,) = [line for line in text.splitlines() if line.split()[:1] == [verb]]
        assert len(line.split()) > 2, verb
    assert command("-h").out == text


def loaded_by(code: str) -> list[str]:
    """Return which of the heavy packages a new interpreter loads for this code."""
    heavy = ["pydantic", "construct", "uvloop", "rich", "prometheus_client", "structlog", "ruamel.yaml"]
    ask = f"{code}; import json, sys; print(json.dumps([n for n in {heavy!r} if n in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", ask], check=True, capture_output=True, text=True, timeout=30)
    loaded: list[str] = json.loads(done.stdout.splitlines()[-1])
    return loaded


@pytest.mark.parametrize(
    "code",
    [
        "import rdpbalancer.cli",
        "import rdpbalancer.cli as c; c._add_commands()",
        "import rdpbalancer.control.client",
        "from rdpbalancer.cli.state import Duration; Duration().convert('30s', None, None)",
    ],
    ids=["import", "every-command", "asking-the-service", "a-duration"],
)
def test_the_command_line_begins_fast(code: str) -> None:
    """What a command does not need is not loaded: operators type these in a hurry."""
    assert [] == loaded_by(code)


@pytest.mark.parametrize("args", [["schema"], ["--help"]])
def test_a_reader_that_has_seen_enough(args: list[str]) -> None:
    """`rdpbalancer schema | head -1` ends without a traceback."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "rdpbalancer", *args],
        check=False,
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        timeout=30,
    )
    os.close(writer)
    assert (1, "") == (done.returncode, done.stderr)


@pytest.mark.parametrize("words", [[], ["drain"], ["show", "servers"], ["lab"]])
def test_help_is_a_command_too(words: list[str]) -> None:
    """It says what `--help` says."""
    done = command("help", *words)
    assert (0, command(*words, "--help").out) == (done.status, done.out)


@pytest.mark.parametrize("words", [["nonsense"], ["drain", "ts1"], ["show", "nonsense"]])
def test_help_of_what_is_not_there(words: list[str]) -> None:
    """Wrong usage."""
    done = command("help", *words)
    assert (2, True) == (done.status, f"there is no command {' '.join(words)!r}" in done.err)


def test_completion() -> None:
    """A shell asks for the words that may follow, as docs/reference/cli.md has it set up."""
    done = command(_RDPBALANCER_COMPLETE="bash_complete", COMP_WORDS="rdpbalancer dr", COMP_CWORD="1")
    assert "plain,drain\n" == done.out


def test_a_message_steers_no_terminal(tmp_path: Path) -> None:
    """The file's own words are in it, and lines stay lines."""
    path = tmp_path / "rdpbalancer.yaml"
    path.write_text(GOOD.replace("ts1", "ts\u202e1").replace("127.0.0.1:0", "nonsense"))
    done = command("check", str(path))
    assert 78 == done.status
    assert "\u202e" not in done.err
    assert len(done.err.splitlines()) > 1


def test_a_terminal_that_lacks_a_letter(tmp_path: Path) -> None:
    """It is shown as an escape; the command goes on."""
    path = tmp_path / "用户.yaml"
    path.write_text(GOOD)
    done = subprocess.run(
        [sys.executable, "-m", "rdpbalancer", "check", str(path)],
        check=False,
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii:strict"},
        timeout=30,
    )
    assert (0, True) == (done.returncode, b"\\u7528\\u6237.yaml: good" in done.stdout), done.stderr
