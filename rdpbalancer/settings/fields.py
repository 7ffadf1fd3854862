"""The kinds of values that the schema is made of: how each is read, checked and described."""

import os
import re
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field, PlainSerializer, PlainValidator, Strict, WithJsonSchema
from pydantic.json_schema import GenerateJsonSchema

from rdpbalancer.model import Endpoint
from rdpbalancer.settings import units
from rdpbalancer.settings.error_text import quoted, shown

# A counter's upper bound: far beyond any farm, and a slip of the pen (a pasted port, a phone number) is told.
MANY: Final = 1_000_000
# sun_path holds 108 bytes with its final zero; the service puts "/control.sock" behind runtime_dir.
MAX_RUNTIME_DIR_BYTES: Final = 107 - len("/control.sock")
MAX_RELAYS: Final = 64

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")


def _duration(value: object, *, minimum_s: float) -> float:
    # A float is not what the file gives (fractions arrive as text): it comes from code, in seconds.
    seconds = value if isinstance(value, float) else units.parse_duration_s(value)
    if seconds < minimum_s:
        raise ValueError(f"must be at least {units.format_duration(minimum_s)}, got {shown(value)}")
    return seconds


def _endpoint(value: object, *, names: bool = False, listening: bool = False) -> Endpoint:
    if isinstance(value, Endpoint):
        return value
    return units.parse_endpoint(value, names=names, listening=listening)


def _optional_endpoint(value: object) -> Endpoint | None:
    return None if value is None else _endpoint(value, listening=True)


def _rate(value: object) -> units.Rate:
    return value if isinstance(value, units.Rate) else units.parse_rate(value)


def _network(value: object) -> units.Network:
    return value if isinstance(value, units.Network) else units.parse_network(value)


def _name(value: object) -> str:
    # `name: 1` is a number to YAML, and a fine name.
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(text, str) or not _NAME.fullmatch(text):
        raise ValueError(
            f"expected a name of 1 to 64 letters, digits, dots, underscores and hyphens, got {shown(value)}"
        )
    return text


def _path(value: object) -> Path:
    if not isinstance(value, str | Path):
        raise ValueError(f"expected a path such as /var/lib/rdpbalancer, got {shown(value)}")  # noqa: TRY004  pydantic collects ValueErrors only
    path = Path(value)
    if not str(path).isprintable():
        raise ValueError(f"{quoted(str(path))} has control characters in it")
    if not path.is_absolute():
        # The service's working directory is nobody's choice: systemd's is /.
        raise ValueError(f"{quoted(str(path))} is relative: write the whole path, from / on")
    return path


def _optional_path(value: object) -> Path | None:
    return None if value is None else _path(value)


def _runtime_dir(value: object) -> Path:
    path = _path(value)
    if len(os.fsencode(path)) > MAX_RUNTIME_DIR_BYTES:
        raise ValueError(
            f"longer than {MAX_RUNTIME_DIR_BYTES} bytes: the paths of the sockets in it would not fit"
        )
    return path


def _relays(value: object) -> int | str:
    if value == "auto":
        return "auto"
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_RELAYS:
        return value
    raise ValueError(f"expected auto or a number from 0 to {MAX_RELAYS}, got {shown(value)}")


def _octal_mode(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"0?[0-7]{3}", value):
        raise ValueError(f"expected the mode of a file in octal digits, such as '0660', got {shown(value)}")
    return value.rjust(4, "0")


def _one_as_list(value: object) -> object:
    """Let a single address stand for the list of it."""
    return value if value is None or isinstance(value, list | tuple | dict) else [value]


def _false_as_none(value: object) -> object:
    return None if value is False else value


def _allow_false(schema: dict[str, Any]) -> None:
    schema["anyOf"].append({"const": False})


_DURATION_JSON: Final = {
    "anyOf": [{"type": "string", "pattern": f"^(0|{units.DURATION_PATTERN})$"}, {"const": 0}],
    "examples": ["500ms", "30s", "1h"],
}
_ADDRESS_JSON: Final = {"type": "string", "pattern": r"^.+:[0-9]{1,5}$"}
_PATH_JSON: Final = {"type": "string", "pattern": "^/"}
_as_duration = PlainSerializer(units.format_duration, return_type=str, when_used="json")
_as_text = PlainSerializer(lambda value: None if value is None else str(value), when_used="json")

Duration = Annotated[
    float, PlainValidator(partial(_duration, minimum_s=0.0)), _as_duration, WithJsonSchema(_DURATION_JSON)
]
# Zero would be a deadline that nobody meets.
Deadline = Annotated[
    float, PlainValidator(partial(_duration, minimum_s=0.001)), _as_duration, WithJsonSchema(_DURATION_JSON)
]
# A loop that wakes more often than a hundred times a second would do nothing else.
Interval = Annotated[
    float, PlainValidator(partial(_duration, minimum_s=0.01)), _as_duration, WithJsonSchema(_DURATION_JSON)
]
ListenAddress = Annotated[
    Endpoint,
    PlainValidator(partial(_endpoint, listening=True)),
    _as_text,
    WithJsonSchema(_ADDRESS_JSON),
]
ListenAddresses = Annotated[
    tuple[ListenAddress, ...],
    BeforeValidator(_one_as_list),
    Field(min_length=1),
    WithJsonSchema({"anyOf": [_ADDRESS_JSON, {"type": "array", "items": _ADDRESS_JSON, "minItems": 1}]}),
]
OptionalListenAddress = Annotated[
    Endpoint | None,
    PlainValidator(_optional_endpoint),
    _as_text,
    WithJsonSchema({"anyOf": [_ADDRESS_JSON, {"type": "null"}]}),
]
ServerAddress = Annotated[
    Endpoint, PlainValidator(partial(_endpoint, names=True)), _as_text, WithJsonSchema(_ADDRESS_JSON)
]
IpAddress = Annotated[Endpoint, PlainValidator(_endpoint), _as_text, WithJsonSchema(_ADDRESS_JSON)]
Networks = tuple[
    Annotated[units.Network, PlainValidator(_network), _as_text, WithJsonSchema({"type": "string"})], ...
]
RateLimit = Annotated[
    units.Rate,
    PlainValidator(_rate),
    _as_text,
    WithJsonSchema({"type": "string", "pattern": f"^[0-9]{{1,9}}/{units.DURATION_PATTERN}$"}),
]
Name = Annotated[
    str, PlainValidator(_name), WithJsonSchema({"type": "string", "pattern": f"^{_NAME.pattern}$"})
]
AbsolutePath = Annotated[Path, PlainValidator(_path), _as_text, WithJsonSchema(_PATH_JSON)]
OptionalPath = Annotated[
    Path | None,
    PlainValidator(_optional_path),
    _as_text,
    WithJsonSchema({"anyOf": [_PATH_JSON, {"type": "null"}]}),
]
RuntimeDir = Annotated[Path, PlainValidator(_runtime_dir), _as_text, WithJsonSchema(_PATH_JSON)]
Relays = Annotated[
    int | Literal["auto"],
    PlainValidator(_relays),
    WithJsonSchema({"anyOf": [{"const": "auto"}, {"type": "integer", "minimum": 0, "maximum": MAX_RELAYS}]}),
]
OctalMode = Annotated[
    str, PlainValidator(_octal_mode), WithJsonSchema({"type": "string", "pattern": "^0?[0-7]{3}$"})
]
Switch = Annotated[bool, Strict()]
Whole = Annotated[int, Strict()]  # bounds stand beside each use
Count = Annotated[int, Strict(), Field(ge=0, le=MANY)]
FALSE_AS_NONE: Final = BeforeValidator(_false_as_none)
ALLOW_FALSE: Final = _allow_false


class AsWritten(GenerateJsonSchema):
    """Shows defaults the way they are written in the file (`1h`, `127.0.0.1:9389`)."""

    def encode_default(self, dft: Any) -> Any:
        """Encode a default value; every float of the schema is a duration."""
        if isinstance(dft, float):
            return units.format_duration(dft)
        if isinstance(dft, Endpoint | units.Rate | Path):
            return str(dft)
        return super().encode_default(dft)
