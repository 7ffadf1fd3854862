"""Reads the files of a configuration: bounded, as UTF-8, with the reason in plain words where it fails."""

import stat
from pathlib import Path
from typing import Final

from rdpbalancer.settings.problems import Problem, SourceLocation, problem_at

# A farm of a thousand servers takes 100 KiB. A larger file is a mistake (a log, an image), and reading one as
# YAML would hold up the start, or a reload, for minutes.
MAX_FILE_BYTES: Final = 1024 * 1024


class FileError(Exception):
    """A file cannot be used. The text says why and what to do; `line` and `column` count from 1."""

    def __init__(self, message: str, *, line: int = 1, column: int = 1) -> None:
        super().__init__(message)
        self.line = line
        self.column = column

    def problem(self, file: str) -> Problem:
        """Make the problem of the file named `file`."""
        return problem_at(SourceLocation(file, self.line, self.column), (), str(self))


def read_text(path: Path, *, max_bytes: int = MAX_FILE_BYTES) -> str:
    """Return the text of the file at `path`. Raises FileError."""
    try:
        # Looked at before it is opened: opening a pipe would wait for its writer.
        if not stat.S_ISREG(path.stat().st_mode):
            raise FileError(f"cannot be read: {_kind(path)}")
        with path.open("rb") as file:
            content = file.read(max_bytes + 1)
    except FileNotFoundError:
        raise FileError("there is no such file: check the path") from None
    except PermissionError:
        raise FileError("may not be read: give the user of the service read permission") from None
    except (OSError, ValueError) as error:
        raise FileError(f"cannot be read: {_reason(error)}") from None
    return decode(content, max_bytes=max_bytes)


def more_files(folder: Path) -> list[Path]:
    """Return the files `*.yaml` of `folder`, by name; none without the folder. Raises FileError.

    Hidden files, such as the locks of editors, are none. Glob is not used: it takes a folder that may not be
    read for an empty one, and a reload would lose the services in it.
    """
    try:
        found = [
            file for file in folder.iterdir() if file.suffix == ".yaml" and not file.name.startswith(".")
        ]
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise FileError(f"cannot be listed: {_reason(error)}") from None
    return sorted(found)


def decode(content: bytes, *, max_bytes: int = MAX_FILE_BYTES) -> str:
    """Return the text of a file's bytes, without a byte order mark. Raises FileError."""
    if len(content) > max_bytes:
        raise FileError(f"longer than {max_bytes // 1024} KiB: this is not the file that is meant")
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise FileError("saved as UTF-16 ('Unicode' in Windows Notepad): save it as UTF-8")
    try:
        return content.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        before = content[: error.start].decode("utf-8").removeprefix("\ufeff")
        raise FileError(
            f"byte 0x{content[error.start]:02x} is not UTF-8: save the file as UTF-8",
            line=before.count("\n") + 1,
            column=len(before) - before.rfind("\n"),
        ) from None


def _reason(error: OSError | ValueError) -> str:
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return (
        "a path cannot have a null byte in it"  # the only ValueError of opening; its text varies with Python
    )


def _kind(path: Path) -> str:
    return "it is a folder, not a file" if path.is_dir() else "it is not an ordinary file"
