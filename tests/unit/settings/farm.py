"""Small configurations to break, and their problems as text."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from rdpbalancer.settings.load import ConfigurationErrors, load, loads
from rdpbalancer.settings.schema import Settings

SERVERS = 'real_servers: [{name: ts1, address: "10.0.0.1:3389"}]'


def service(*lines: str, name: str = "farm", listen: str = '"0.0.0.0:3389"', servers: str = SERVERS) -> str:
    """Return a virtual service as an item of the list; `lines` are further keys, from column 5 on.

    Its name stands in its line 1, `listen` in 2, `lines` from 3 on, the servers at the end.
    """
    return "\n    ".join([f"  - name: {name}", f"listen: {listen}", *lines, servers]) + "\n"


def farm(*lines: str, servers: str = SERVERS, before: str = "") -> str:
    """Return a configuration of one service. Without `before`, `lines` stand from line 4 on."""
    return f"{before}virtual_services:\n" + service(*lines, servers=servers)


def problems(text: str, environ: Mapping[str, str] | None = None) -> list[str]:
    """Return the problems of `text`, one string each; the file is called `f`."""
    with pytest.raises(ConfigurationErrors) as caught:
        loads(text, name="f", environ=environ or {})
    assert "configuration" == caught.value.code
    assert str(caught.value) == "\n".join(str(problem) for problem in caught.value.problems)
    return str(caught.value).splitlines()


def file_problems(path: Path, environ: Mapping[str, str] | None = None) -> list[str]:
    """Return the problems of the file at `path` and its conf.d, with DIR for its folder."""
    with pytest.raises(ConfigurationErrors) as caught:
        load(path, environ=environ or {})
    return str(caught.value).replace(str(path.parent), "DIR").splitlines()


def loaded(text: str, environ: Mapping[str, str] | None = None) -> Settings:
    """Load `text`, which has no problem."""
    return loads(text, name="f", environ=environ or {})
