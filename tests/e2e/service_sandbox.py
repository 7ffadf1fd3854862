"""The part of the service unit's sandbox that the kernel can enforce without systemd.

``python -m tests.e2e.service_sandbox PROGRAM ARGUMENT...`` runs the program with the unit's SystemCallFilter,
RestrictAddressFamilies, MemoryDenyWriteExecute and NoNewPrivileges.
"""

import ctypes
import errno
import os
import re
import socket
import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from typing import Final

from tests.support.unitfile import read_unit

_PR_SET_NO_NEW_PRIVS: Final = 38
_PR_SET_MDWE: Final = 65  # Linux 6.3
_PR_MDWE_REFUSE_EXEC_GAIN: Final = 1
_ALLOW: Final = 0x7FFF0000  # SCMP_ACT_ALLOW
_EQUAL: Final = 4  # SCMP_CMP_EQ


class _Compare(ctypes.Structure):
    """`struct scmp_arg_cmp` of libseccomp."""

    _fields_ = (
        ("arg", ctypes.c_uint),
        ("op", ctypes.c_int),
        ("a", ctypes.c_uint64),
        ("b", ctypes.c_uint64),
    )


def allowed_calls(unit: Mapping[str, Sequence[str]]) -> set[str]:
    """Return the system calls that the unit's SystemCallFilter lines leave, by name."""
    sets = _call_sets()
    allowed = _expand(sets, ["@default"])  # systemd always allows these
    for line in unit["SystemCallFilter"]:
        names = _expand(sets, line.removeprefix("~").split())
        allowed = allowed - names if line.startswith("~") else allowed | names
    return allowed


def _call_sets() -> dict[str, list[str]]:
    """Return systemd's sets of system calls as `systemd-analyze` lists them; sets may name sets."""
    command = ["systemd-analyze", "--no-pager", "syscall-filter"]
    text = subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    sets: dict[str, list[str]] = {}
    current: list[str] = []
    for line in plain.splitlines():
        if line.startswith("@"):
            current = sets.setdefault(line.strip(), [])
        elif line.strip() and not line.strip().startswith("#"):
            current.append(line.strip())
    return sets


def _expand(sets: Mapping[str, Sequence[str]], names: Sequence[str]) -> set[str]:
    found: set[str] = set()
    for name in names:
        found |= _expand(sets, sets[name]) if name.startswith("@") else {name}
    return found


def enter(unit: Mapping[str, Sequence[str]]) -> None:
    """Confine this process, and all it will start, as the unit says. Raises OSError."""
    calls = allowed_calls(unit)
    families = [getattr(socket, name) for name in unit["RestrictAddressFamilies"][0].split()]
    libc = ctypes.CDLL(None, use_errno=True)
    _check(libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    _check(libc.prctl(_PR_SET_MDWE, _PR_MDWE_REFUSE_EXEC_GAIN, 0, 0, 0))
    _load_filter(calls, families)


def _check(result: int) -> None:
    if result < 0:
        number = ctypes.get_errno() or -result
        raise OSError(number, os.strerror(number))


def _load_filter(calls: Collection[str], families: Collection[int]) -> None:
    lib = ctypes.CDLL("libseccomp.so.2", use_errno=True)
    lib.seccomp_init.restype = ctypes.c_void_p
    denied = 0x00050000 | errno.EPERM  # SCMP_ACT_ERRNO
    context = ctypes.c_void_p(lib.seccomp_init(ctypes.c_uint32(denied)))
    for name in sorted(calls):
        number = lib.seccomp_syscall_resolve_name(name.encode())
        if number < 0:
            continue  # not a call of this architecture
        if name == "socket":
            for family in families:
                wanted = (_Compare * 1)(_Compare(0, _EQUAL, int(family), 0))
                _check(lib.seccomp_rule_add_array(context, ctypes.c_uint32(_ALLOW), number, 1, wanted))
        else:
            _check(lib.seccomp_rule_add_array(context, ctypes.c_uint32(_ALLOW), number, 0, None))
    _check(lib.seccomp_load(context))


if __name__ == "__main__":
    enter(read_unit())
    os.execv(sys.argv[1], sys.argv[1:])  # noqa: S606 (the sandbox is for that very program)
