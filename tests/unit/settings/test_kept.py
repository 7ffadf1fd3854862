"""The configuration in use, kept beside the one that is being edited."""

from pathlib import Path

import pytest

from rdpbalancer.errors import ConfigurationError
from rdpbalancer.settings.load import load, load_to_keep, loads_kept

SAMPLES = sorted((Path(__file__).parents[3] / "config").glob("*.yaml"))


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.name)
def test_what_is_kept_says_the_same(path: Path) -> None:
    """The kept text gives settings equal to those of the file."""
    settings, text = load_to_keep(path, environ={})
    assert load(path, environ={}) == settings
    assert settings == loads_kept(text)


def test_what_is_kept_needs_neither_files_nor_environment(tmp_path: Path) -> None:
    """Variables, conf.d and odd characters are worked in; nothing is read again."""
    main = tmp_path / "main.yaml"
    main.write_text(
        "global: {log: {file: '/tmp/\U0001f600 $$x.log'}}\n"
        "virtual_services:\n"
        "  - {name: ts, listen: '127.0.0.1:0', real_servers: [{name: a, address: '${HOST}:3389'}]}\n"
    )
    more = tmp_path / "conf.d"
    more.mkdir()
    (more / "more.yaml").write_text(
        "virtual_services:\n"
        "  - name: gw\n    mode: tcp\n    listen: '127.0.0.1:0'\n"
        "    real_servers: [{name: g, address: '192.0.2.1:443'}]\n"
    )
    settings, text = load_to_keep(main, environ={"HOST": "192.0.2.7"})
    main.unlink()
    (more / "more.yaml").unlink()
    again = loads_kept(text)
    assert settings == again
    assert Path("/tmp/\U0001f600 $x.log") == again.global_.log.file
    assert ["ts", "gw"] == [service.name for service in again.virtual_services]
    assert "tcp" == again.virtual_services[1].real_servers[0].health_check.type


@pytest.mark.parametrize("text", ["", "{", "[]", '{"virtual_services": []}', '{"unknown": 1}'])
def test_what_cannot_be_used_is_an_error_of_ours(text: str) -> None:
    """Damaged text, or text of another version, raises the error that callers expect."""
    with pytest.raises(ConfigurationError, match="kept configuration"):
        loads_kept(text)
