"""The page of the control protocol says what there is: verbs, parameters, keys of rows, bounds."""

import inspect
import re
from pathlib import Path

import msgspec
import pytest

from rdpbalancer.control import connection, paging, parameters, protocol, rows, server
from rdpbalancer.control.parameters import Signature
from rdpbalancer.net.descriptors import CONTROL_CLIENTS
from rdpbalancer.runtime.service_verbs import ServiceVerbs
from tests.unit.runtime.in_process_router import InProcessRouter, service_of

PAGE = Path("docs/reference/control-protocol.md").read_text()
SECTIONS = {
    name: text.partition("\n## ")[0]
    for name, text in re.findall(r"### `([a-z-]+)`\n(.*?)(?=\n### |\Z)", PAGE, re.DOTALL)
}
OPERATORS = {
    name: Signature(verb) for name, verb in InProcessRouter(service_of(["ts1"])).operator.verbs().items()
}
ROUTERS = {
    name: Signature(getattr(ServiceVerbs, method))
    for name, method in re.findall(r'"([a-z]+)": self\.(\w+),', inspect.getsource(ServiceVerbs.verbs))
}
ROWS: dict[str, tuple[type[msgspec.Struct], ...]] = {
    "status": (rows.Process, rows.WarningRow),
    "services": (rows.ServiceRow,),
    "servers": (rows.ServerRow, rows.OperatorOverride, rows.Check),
    "sessions": (rows.SessionRow,),
    "persistence": (rows.BindingRow,),
    "queue": (rows.QueueRow,),
    "set-state": (rows.ServerState,),
}


def test_every_verb_is_documented_and_every_documented_verb_is_there() -> None:
    """Neither more nor less."""
    assert {"status", "reload", "upgrade", "ping"} == set(ROUTERS)
    assert {*OPERATORS, *ROUTERS} == set(SECTIONS)


@pytest.mark.parametrize("verb", [*OPERATORS, *ROUTERS])
def test_every_parameter_is_documented(verb: str) -> None:
    """With its verb; those of all lists with the lists."""
    signature = OPERATORS.get(verb) or ROUTERS[verb]
    named = set(re.findall(r"`([a-z_]+)`", SECTIONS[verb]))
    taken = {parameter.name for parameter in signature.parameters} - {"limit", "after", "self"}
    assert taken <= named


@pytest.mark.parametrize("verb", ROWS)
def test_every_key_is_documented(verb: str) -> None:
    """Whoever writes a program reads the page, not the source."""
    named = set(re.findall(r"`([a-z_]+)`", SECTIONS[verb]))
    assert {field for row in ROWS[verb] for field in row.__struct_fields__} <= named


def test_the_bounds_are_those_of_the_code() -> None:
    """In the page's own units."""
    for said in (
        f"{CONTROL_CLIENTS}, of one process {server.MAX_OF_A_PROCESS}",
        f"{protocol.MAX_REQUEST_BYTES // 1024} KiB, and {connection.COMMAND_S:g} s",
        f"{connection.IDLE_S:g} s between two",
        f"{connection.ANSWER_S:g} s to be taken",
        f"{server.MAX_UNTAKEN_BYTES // 2**20} MiB",
        f"1 to {paging.MAX_ROWS}",
        f"ends at {paging.MAX_PAGE_BYTES // 1024} KiB",
        f"{parameters.MAX_TEXT_CHARS} characters; lists of names {parameters.MAX_ITEMS}",
    ):
        assert said in PAGE
