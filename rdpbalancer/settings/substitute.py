"""Variables in values: `${NAME}`, `${NAME:-default}`, `${file:path}`; `$$` is a dollar."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rdpbalancer.settings.error_text import quoted
from rdpbalancer.settings.files import FileError, read_text

# Enough for a list of anything in one value; a larger file is not a value.
MAX_VALUE_BYTES: Final = 64 * 1024

_REFERENCE = re.compile(r"\$\$|\$\{([^}]*)(\}?)", re.DOTALL)
_ENVIRONMENT = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?::-(.*))?", re.DOTALL)


class SubstitutionError(Exception):
    """A reference cannot be replaced. The text says which one, why, and what to do."""


@dataclass(frozen=True, slots=True)
class Substitution:
    """Where the values of references come from. `folder`: what relative paths of files start from."""

    environ: Mapping[str, str]
    folder: Path

    def expand(self, text: str) -> tuple[str, bool]:
        """Return `text` with its references replaced, and whether it was one reference and nothing else.

        What a reference is replaced with is not looked through again. Raises SubstitutionError.
        """
        whole = _REFERENCE.fullmatch(text)
        if "$" not in text:
            return text, False
        return _REFERENCE.sub(self._replacement, text), whole is not None and text != "$$"

    def _replacement(self, found: re.Match[str]) -> str:
        if found[0] == "$$":
            return "$"
        if not found[2]:
            raise SubstitutionError(f"{quoted(found[0])} has no closing brace; write $$ for a dollar")
        reference = found[1]
        if reference.startswith("file:"):
            return self._file(reference.removeprefix("file:"))
        return self._variable(reference)

    def _file(self, name: str) -> str:
        try:
            return read_text(self.folder / name, max_bytes=MAX_VALUE_BYTES).rstrip("\r\n")
        except FileError as error:
            raise SubstitutionError(f"file {str(self.folder / name)!r}: {error}") from None

    def _variable(self, reference: str) -> str:
        found = _ENVIRONMENT.fullmatch(reference)
        if found is None:
            raise SubstitutionError(
                f"{quoted('${' + reference + '}')} is not a reference: write ${{NAME}}, ${{NAME:-default}}"
                " or ${file:path}, and $$ for a dollar"
            )
        value = self.environ.get(found[1])
        if found[2] is not None:
            return value or found[2]  # as in a shell, :- also stands in for an empty variable
        if value is None:
            raise SubstitutionError(
                f"the environment variable {found[1]} is not set: set it, or write ${{{found[1]}:-default}}"
            )
        return value
