"""The code that this process runs, kept as it was when the program started.

A package may be replaced while the service runs: pip writes over the environment, and the old files are gone.
So the package is packed into a sealed archive in memory. Routers and relays are started from it, whatever has
been installed meanwhile, and it is what an upgrade goes back to. The archive is no file that anybody could
change, and it goes with the last process that has it open.
"""

import fcntl
import hashlib
import io
import os
import secrets
import sys
import zipfile
from importlib.util import MAGIC_NUMBER, cache_from_source
from pathlib import Path
from typing import Final

import msgspec

import rdpbalancer
from rdpbalancer import __version__

_PACKAGE: Final = Path(rdpbalancer.__file__).parent
_CODE: Final = "RDPBALANCER_CODE"
_PYTHONPATH: Final = "RDPBALANCER_PYTHONPATH"
# magic, flags, then for a timestamp: seconds u32le, size u32le; for a hash 8 bytes (PEP 552).
_PYC_HEADER_BYTES: Final = 16
_UNCHECKED: Final = MAGIC_NUMBER + (1).to_bytes(4, "little") + bytes(8)
_MARK_CHARS: Final = 16


class Program(msgspec.Struct, frozen=True):
    """What runs, and how more of it is started.

    `code`: descriptor of the archive, -1: there is none. `mark`: differs at every start from files, even of
    the same code (its Python may be another), and is the same after a way back. `path`: the operator's
    PYTHONPATH. `installed`: a fingerprint of the package's files at the start.
    """

    executable: str
    version: str
    code: int = -1
    mark: str = ""
    path: str = ""
    installed: str = ""

    def command(self, module: str) -> list[str]:
        """Return the command that runs a module of this very code."""
        if self.code < 0:
            return [self.executable, "-m", module]
        return [self.executable, "-P", "-m", module]

    def environ(self) -> dict[str, str]:
        """Return the environment for `command`, which also needs the descriptor `code`."""
        if self.code < 0:
            return dict(os.environ)
        archive = f"/proc/self/fd/{self.code}"
        path = f"{archive}{os.pathsep}{self.path}" if self.path else archive
        return {**os.environ, "PYTHONPATH": path, _CODE: str(self.code), _PYTHONPATH: self.path}

    @property
    def descriptors(self) -> list[int]:
        """What has to stay open in a process of this code."""
        return [self.code] if self.code >= 0 else []


def own() -> Program:
    """Return the program that this process runs. The environment is the operator's again afterwards."""
    code, path = os.environ.pop(_CODE, ""), os.environ.pop(_PYTHONPATH, None)
    if path is not None:
        os.environ["PYTHONPATH"] = path
        if not path:
            del os.environ["PYTHONPATH"]
    path = os.environ.get("PYTHONPATH", "")
    if code.isdigit():
        descriptor = int(code)
        os.set_inheritable(descriptor, False)
        mark = _mark(Path(f"/proc/self/fd/{descriptor}").read_bytes())
        return Program(sys.executable, __version__, descriptor, mark, path)
    archive = _packed(_PACKAGE)
    return Program(sys.executable, __version__, _sealed(archive), _mark(archive), path, fingerprint())


def newest() -> Program:
    """Return the program that is installed now. It has no archive before it runs."""
    return Program(sys.executable, "")


def fingerprint() -> str:
    """Return what differs as soon as a file of the installed package does; empty: it is an archive."""
    try:
        files = [(str(file.relative_to(_PACKAGE)), file.stat()) for file in _files(_PACKAGE)]
    except OSError:  # in the middle of being replaced
        return "changing"
    text = "\n".join(f"{name} {stat.st_size} {stat.st_mtime_ns}" for name, stat in files)
    return hashlib.sha256(text.encode()).hexdigest()[:_MARK_CHARS] if files else ""


def _files(package: Path) -> list[Path]:
    if not package.is_dir():
        return []
    return sorted(file for file in package.rglob("*") if file.is_file() and file.parent.name != "__pycache__")


def _packed(package: Path) -> bytes:
    """Return the package as an archive to import from, compiled where that has been done already."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.comment = secrets.token_bytes(8)
        for file in _files(package):
            name = f"{package.name}/{file.relative_to(package)}"
            source = file.read_bytes()
            archive.writestr(zipfile.ZipInfo(name), source)
            if file.suffix == ".py" and (compiled := _compiled(file, len(source))):
                archive.writestr(zipfile.ZipInfo(f"{name}c"), compiled)
    return out.getvalue()


def _compiled(file: Path, size_bytes: int) -> bytes:
    """Return a module's code if Python has cached it for this source, not to be compared with it again."""
    try:
        data = Path(cache_from_source(str(file))).read_bytes()
        mtime = int(file.stat().st_mtime)
    except (OSError, NotImplementedError):
        return b""
    stamp = (mtime & 0xFFFFFFFF).to_bytes(4, "little") + (size_bytes & 0xFFFFFFFF).to_bytes(4, "little")
    if data[:_PYC_HEADER_BYTES] != MAGIC_NUMBER + bytes(4) + stamp:
        return b""
    return _UNCHECKED + data[_PYC_HEADER_BYTES:]


def _mark(archive: bytes) -> str:
    return hashlib.sha256(archive).hexdigest()[:_MARK_CHARS]


def _sealed(archive: bytes) -> int:
    """Return a descriptor of the archive, which nobody can change any more; -1: the machine has none."""
    try:
        descriptor = os.memfd_create("rdpbalancer-code", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    except OSError:
        return -1
    with os.fdopen(os.dup(descriptor), "wb") as out:
        out.write(archive)
    fcntl.fcntl(
        descriptor,
        fcntl.F_ADD_SEALS,
        fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL,
    )
    return descriptor
