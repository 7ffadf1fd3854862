r"""The one escape for what strangers said, where it reaches a terminal.

User names, tokens and preconnection texts are a client's bytes; a reason is a feedback agent's. A terminal
acts on C0 and C1 control characters (U+009B is a CSI of one character), and shows text out of order after
U+202E or U+2066; U+2028 and U+2029 end lines. All of them, and whatever else has no glyph, are shown as the
escape that Python writes for them: `\x1b`, `\u202e`.
"""

import json
from typing import Any


def escaped(text: str) -> str:
    r"""Return `text` on one line, every character that is not printable as its escape (tab is `\t`).

    A backslash stays one backslash: DOMAIN\user has to be copied as it is.
    """
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text
    )


def escaped_lines(text: str) -> str:
    """Return `text` with its line feeds, all else as `escaped` does: for messages of many lines."""
    return "\n".join(map(escaped, text.split("\n")))


def json_text(value: Any, *, indent: int | None = None) -> str:
    """Return `value` as JSON that a terminal can be shown: the same value, other characters escaped."""
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    if text.isprintable():
        return text
    # json.dumps has escaped what JSON forbids within strings; the line feeds that are left are its own.
    return "".join(char if char.isprintable() or char == "\n" else _json_escape(char) for char in text)


def _json_escape(char: str) -> str:
    return json.dumps(char)[1:-1] if ord(char) != 0x7F else "\\u007f"
