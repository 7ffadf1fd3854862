"""Variables in values: what they become, and what is said where they cannot."""

from pathlib import Path

import pytest

from rdpbalancer.settings.load import load, loads
from rdpbalancer.settings.substitute import Substitution
from tests.unit.settings.farm import farm, file_problems, loaded, problems

HERE = Substitution({"A": "1", "EMPTY": "", "MONEY": "$A ${A} $$"}, Path("/nowhere"))


@pytest.mark.parametrize(
    ("text", "expected", "whole"),
    [
        ("plain", "plain", False),
        ("${A}", "1", True),
        ("x${A}y${A}", "x1y1", False),
        ("${NO:-default}", "default", True),
        ("${NO:-}", "", True),
        ("${NO:-a:-b}", "a:-b", True),
        ("${A:-default}", "1", True),
        ("${EMPTY:-default}", "default", True),
        ("${EMPTY}", "", True),
        ("$$", "$", False),
        ("$${A}", "${A}", False),
        ("$$${A}", "$1", False),
        ("cost $5", "cost $5", False),
        ("${MONEY}", "$A ${A} $$", True),
    ],
)
def test_what_references_become(text: str, expected: str, whole: bool) -> None:  # noqa: FBT001  a table's column
    """References are replaced once, $$ is a dollar, any other dollar stays."""
    assert (expected, whole) == HERE.expand(text)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("${NO}", "the environment variable NO is not set: set it, or write ${NO:-default}"),
        ("a ${NO} b", "the environment variable NO is not set: set it, or write ${NO:-default}"),
        ('"${A"', "'${A' has no closing brace; write $$ for a dollar"),
        (
            '"${A B}"',
            (
                "'${A B}' is not a reference: write ${NAME}, ${NAME:-default} or ${file:path}, and $$"
                " for a dollar"
            ),
        ),
        (
            '"${}"',
            "'${}' is not a reference: write ${NAME}, ${NAME:-default} or ${file:path}, and $$ for a dollar",
        ),
        ('"${file:no/such}"', "file 'no/such': there is no such file: check the path"),
    ],
)
def test_references_that_cannot_be_replaced(value: str, message: str) -> None:
    """The value is pointed at, with the reason, and nothing else is said of it."""
    assert [f"f:4:16: virtual_services[0].scheduler: {message}"] == problems(
        farm(f"scheduler: {value}"), {"A": "1"}
    )


def test_a_value_that_is_only_a_variable_is_read_as_yaml() -> None:
    """Numbers, switches and nothing come out of the environment as what they are."""
    environ = {"N": "3", "S": " false ", "MODE": "0600", "NAME": "007", "PORT": "3389"}
    settings = loaded(
        farm(
            "redispatch: ${N}",
            'health_check: {observe: "${S}", port: "${NOTHING:-}"}',
            servers='real_servers: [{name: "${NAME}", address: "10.0.0.1:${PORT}"}]',
            before="global: {control_socket_mode: '${MODE}'}\n",
        ),
        environ,
    )
    service = settings.virtual_services[0]
    assert 3 == service.redispatch
    assert service.health_check.observe is False
    assert service.health_check.port is None
    assert ("007", "10.0.0.1:3389") == (service.real_servers[0].name, str(service.real_servers[0].address))
    assert "0600" == settings.global_.control_socket_mode


def test_a_value_with_more_than_a_variable_stays_text() -> None:
    """`1${A}` is text, even if digits come out."""
    assert [
        "f:4:17: virtual_services[0].redispatch: expected a whole number, got '11': write 11"
    ] == problems(farm('redispatch: "1${A}"'), {"A": "1"})


def test_wrong_values_of_variables_are_told_as_they_came() -> None:
    """The message shows what the variable gave, at the place of the value."""
    assert ["f:4:17: virtual_services[0].redispatch: expected a whole number, got 'many'"] == problems(
        farm("redispatch: ${N}"), {"N": "many"}
    )


def test_keys_are_not_searched_for_variables() -> None:
    """A key is a word of the schema."""
    (found,) = problems(farm('"${A}": 1'), {"A": "mode"})
    assert found.startswith("f:4:5: virtual_services[0].${A}: unknown key '${A}'")


def test_values_from_files(tmp_path: Path) -> None:
    """A file's text is a value, without its last newline; its path starts from the main file's folder."""
    (tmp_path / "weight").write_text("42\n")
    (tmp_path / "host").write_text("ts1.example.com\r\n")
    main = tmp_path / "main.yaml"
    text = farm(
        servers='real_servers: [{name: a, address: "${file:host}:1", weight: "${file:'
        + str(tmp_path)
        + '/weight}"}]'
    )
    main.write_text(text)
    server = load(main, environ={}).virtual_services[0].real_servers[0]
    assert ("ts1.example.com:1", 42) == (str(server.address), server.weight)
    assert 42 == loads(text, name=str(main)).virtual_services[0].real_servers[0].weight


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"x" * (64 * 1024 + 1), "longer than 64 KiB: this is not the file that is meant"),
        (b"\xff\xfea", "saved as UTF-16 ('Unicode' in Windows Notepad): save it as UTF-8"),
        (b"a\xe9", "byte 0xe9 is not UTF-8: save the file as UTF-8"),
        (None, "cannot be read: it is a folder, not a file"),
    ],
)
def test_files_that_are_no_value(tmp_path: Path, content: bytes | None, message: str) -> None:
    """A file that cannot be a value is named, and the value that asks for it is pointed at."""
    value = tmp_path / "value"
    value.mkdir() if content is None else value.write_bytes(content)
    main = tmp_path / "main.yaml"
    main.write_text(farm("scheduler: ${file:value}"))
    expected = f"DIR/main.yaml:4:16: virtual_services[0].scheduler: file 'DIR/value': {message}"
    assert [expected] == file_problems(main)


def test_the_largest_value(tmp_path: Path) -> None:
    """Exactly 64 KiB are a value."""
    (tmp_path / "value").write_bytes(b"x" * 64 * 1024)
    assert ("x" * 64 * 1024, True) == Substitution({}, tmp_path).expand("${file:value}")
