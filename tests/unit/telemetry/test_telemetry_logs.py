"""Log lines in every format, and what they say of users."""

import io
import json
import os
import re
import stat
from pathlib import Path

import pytest

from rdpbalancer.errors import ConfigurationError
from rdpbalancer.telemetry import logs
from rdpbalancer.telemetry.logs import configure
from rdpbalancer.telemetry.users import UserMasking, installation_key

HOSTILE = "a\x1b]0;owned\x07\nlevel=error event=fake\r\x9b31m"


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        """It is."""
        return True


def logged(log_format: str, *, stream: io.StringIO | None = None, **fields: object) -> str:
    """Return the line of one event."""
    out = stream or io.StringIO()
    configure(log_format=log_format, level="info", process="router", stream=out)
    logs.get().info("something_happened", **fields)
    return out.getvalue()


def test_json_is_one_object_a_line() -> None:
    """When, how grave and what come first; the process and the fields follow."""
    text = logged("json", service="ts", count=3, none=None, list=[1], when=1.5)
    event = json.loads(text)
    assert 1 == text.count("\n")
    assert ["timestamp", "level", "event"] == list(event)[:3]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", event.pop("timestamp"))
    assert {
        "level": "info",
        "event": "something_happened",
        "process": "router",
        "service": "ts",
        "count": 3,
        "none": None,
        "list": [1],
        "when": 1.5,
    } == event


def test_logfmt_is_key_value() -> None:
    """For those who grep."""
    text = logged("logfmt", service="ts", detail="two words", flag=True)
    assert re.fullmatch(
        r"timestamp=\S+ level=info event=something_happened service=ts "
        r'detail="two words" flag=true process=router\n',
        text,
    )


def test_the_console_is_for_reading() -> None:
    """No colours where they were not asked for."""
    text = logged("console", service="ts")
    assert "[info     ] something_happened" in text
    assert "service=ts" in text
    assert "\x1b" not in text


@pytest.mark.parametrize("no_color", [None, "", "1"])
def test_colours_are_for_terminals_that_want_them(
    monkeypatch: pytest.MonkeyPatch, no_color: str | None
) -> None:
    """`NO_COLOR` counts when it is not empty (no-color.org)."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    if no_color is not None:
        monkeypatch.setenv("NO_COLOR", no_color)
    assert (no_color != "1") == ("\x1b[" in logged("console", stream=Terminal()))


def test_auto_is_console_on_a_terminal_and_json_elsewhere() -> None:
    """A journal gets what machines read."""
    assert "something_happened" == json.loads(logged("auto"))["event"]
    with pytest.raises(json.JSONDecodeError):
        json.loads(logged("auto", stream=Terminal()))


@pytest.mark.parametrize("log_format", ["json", "logfmt", "console"])
def test_a_strangers_bytes_stay_within_their_field(log_format: str) -> None:
    """A user's name can neither steer the terminal nor forge a line."""
    text = logged(log_format, user=HOSTILE, token="ok")
    assert 1 == text.count("\n")
    assert text.endswith("\n")
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", text)


def test_json_keeps_a_strangers_bytes_exactly() -> None:
    """Escaped as JSON escapes, so that a reader gets the name itself."""
    assert HOSTILE == json.loads(logged("json", user=HOSTILE))["user"]


@pytest.mark.parametrize("log_format", ["json", "logfmt", "console"])
def test_no_text_is_beyond_telling(log_format: str) -> None:
    """A file's name that is not UTF-8 loses no record and raises nothing."""
    assert "\\udcff" in logged(log_format, detail=os.fsdecode(b"/tmp/\xff"))


def test_values_that_are_not_json_are_shown_as_they_are() -> None:
    """A log call never fails for what it is given."""
    assert "range(0, 3)" == json.loads(logged("json", odd=range(3)))["odd"]


@pytest.mark.parametrize("log_format", ["json", "logfmt", "console"])
def test_errors_come_with_their_traceback(log_format: str) -> None:
    """On the console in lines, elsewhere within the one line."""
    stream = io.StringIO()
    configure(log_format=log_format, level="info", process="router", stream=stream)
    try:
        raise ValueError("why")  # noqa: TRY301
    except ValueError:
        logs.get().exception("internal_error")
    text = stream.getvalue()
    assert "ValueError: why" in text
    assert "Traceback" in text
    assert (log_format == "console") == (text.count("\n") > 1)


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        ("debug", ["debug", "info", "warning", "error"]),
        ("info", ["info", "warning", "error"]),
        ("warning", ["warning", "error"]),
        ("error", ["error"]),
    ],
)
def test_the_level_is_the_least_that_is_written(level: str, expected: list[str]) -> None:
    """Levels as the configuration names them."""
    stream = io.StringIO()
    configure(log_format="json", level=level, process="router", stream=stream)
    for name in ("debug", "info", "warning", "error"):
        getattr(logs.get(), name)("event")
    assert expected == [json.loads(line)["level"] for line in stream.getvalue().splitlines()]


def test_a_file_is_appended_to_line_by_line(tmp_path: Path) -> None:
    """A restart does not begin it anew, and nothing waits in a buffer."""
    path = tmp_path / "log"
    path.write_text("earlier\n")
    configure(log_format="auto", level="info", process="router", file=path)
    logs.get().info("later")
    logs.flush()
    earlier, later = path.read_text().splitlines()
    assert ("earlier", "later") == (earlier, json.loads(later)["event"])


def test_configured_anew_the_old_file_is_closed(tmp_path: Path) -> None:
    """A reload a day for a year leaks no descriptor; what had been got before writes to the new file."""
    earlier = logs.get()
    for number in range(3):
        path = tmp_path / str(number)
        configure(log_format="json", level="info", process="router", file=path)
        earlier.info("event", number=number)
        logs.flush()
        assert number == json.loads(path.read_text())["number"]
        held = [str(link.readlink()) for link in Path("/proc/self/fd").iterdir() if link.exists()]
        assert [str(path)] == [name for name in held if name.startswith(str(tmp_path))]


def test_a_file_that_cannot_be_written_is_the_operators_to_correct(tmp_path: Path) -> None:
    """The error names the key, the file and why; logging goes on where it went."""
    stream = io.StringIO()
    configure(log_format="json", level="info", process="router", stream=stream)
    with pytest.raises(
        ConfigurationError, match=r"global\.log\.file: .*/log cannot be written: No such file"
    ):
        configure(log_format="json", level="info", process="router", file=tmp_path / "missing" / "log")
    logs.get().info("still_here")
    assert "still_here" in stream.getvalue()


def test_bound_fields_are_in_every_event() -> None:
    """`get(...)` gives a logger with fields of its own."""
    stream = io.StringIO()
    configure(log_format="json", level="info", process="relay 1", stream=stream)
    logs.get(service="ts").info("event")
    event = json.loads(stream.getvalue())
    assert ("ts", "relay 1") == (event["service"], event["process"])


# ---- users -----------------------------------------------------------------------------------------


def test_users_plain_hashed_and_off() -> None:
    """As configured; who gave no name has none in any way."""
    key = b"k" * 32
    assert "Alice" == UserMasking("plain", key)("Alice")
    assert None is UserMasking("off", key)("Alice")
    assert [None] * 3 == [UserMasking(how, key)(None) for how in ("plain", "hash", "off")]
    assert re.fullmatch("[0-9a-f]{16}", UserMasking("hash", key)("Alice") or "")


def test_a_users_hash_is_the_same_here_and_another_elsewhere() -> None:
    """So that one can follow a user through this installation's logs, and through no other's."""
    here, elsewhere = UserMasking("hash", b"a" * 32), UserMasking("hash", b"b" * 32)
    assert here("Alice") == UserMasking("hash", b"a" * 32)("aLICE")
    assert here("alice") != here("bert")
    assert here("alice") != elsewhere("alice")


def mode(path: Path) -> int:
    """Return a file's permissions."""
    return stat.S_IMODE(path.stat().st_mode)


def test_the_key_is_made_once_and_is_nobody_elses(tmp_path: Path) -> None:
    """Only the service's user reads it, and every start finds the same one."""
    key = installation_key(tmp_path)
    assert 32 == len(key)
    assert key == installation_key(tmp_path)
    assert [("user-hash.key", 0o600)] == [(file.name, mode(file)) for file in tmp_path.iterdir()]


def test_two_installations_have_two_keys(tmp_path: Path) -> None:
    """Chance, not a constant."""
    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        folder.mkdir()
    assert installation_key(folders[0]) != installation_key(folders[1])


@pytest.mark.parametrize("content", [b"", b"short", b"x" * 31])
def test_a_key_that_is_too_short_is_replaced(tmp_path: Path, content: bytes) -> None:
    """A half-written file guards nothing; the new one is nobody else's, whatever the old one was."""
    path = tmp_path / "user-hash.key"
    path.write_bytes(content)
    path.chmod(0o644)
    key = installation_key(tmp_path)
    assert (key, 32, 0o600) == (path.read_bytes(), len(key), mode(path))
    assert [path] == list(tmp_path.iterdir())


def test_what_a_dead_process_left_half_done_is_no_hindrance(tmp_path: Path) -> None:
    """The same process id may come again."""
    (tmp_path / f".user-hash.key.{os.getpid()}").write_bytes(b"half")
    assert 32 == len(installation_key(tmp_path))
    assert ["user-hash.key"] == [file.name for file in tmp_path.iterdir()]


@pytest.mark.parametrize("log_format", ["json", "logfmt", "console"])
def test_in_the_journal_every_line_has_its_priority(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log_format: str
) -> None:
    """sd-daemon(3): systemd takes it away again, and `journalctl -p err` finds it. Nowhere else."""
    path = tmp_path / "journal"
    path.touch()
    status = path.stat()
    monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
    configure(log_format=log_format, level="debug", process="router", file=path)
    for level in ("debug", "info", "warning", "error"):
        getattr(logs.get(), level)("event")
    logs.flush()
    assert ["<7>", "<6>", "<4>", "<3>"] == [line[:3] for line in path.read_text().splitlines()]
    other = tmp_path / "file"
    configure(log_format=log_format, level="debug", process="router", file=other)
    logs.get().error("event")
    logs.flush()
    assert not other.read_text().startswith("<")
