"""Files: the main one, conf.d, and those that cannot be read."""

import os
from pathlib import Path

import pytest

from rdpbalancer.settings.load import load
from tests.unit.settings.farm import farm, file_problems, service


def tree(folder: Path, **files: str | bytes) -> Path:
    """Write `main` to main.yaml and the others to conf.d; return the main file's path."""
    (folder / "conf.d").mkdir()
    for name, content in files.items():
        path = folder / "main.yaml" if name == "main" else folder / "conf.d" / f"{name}.yaml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder / "main.yaml"


def test_conf_d_is_merged_in_the_order_of_names(tmp_path: Path) -> None:
    """Services are appended, `global` and `defaults` merged deep, for the services of all files."""
    main = tree(
        tmp_path,
        main="global: {log: {level: debug}}\ndefaults: {timeouts: {connect: 1s}}\n" + farm(),
        b="virtual_services:\n" + service(name="b", listen="127.0.0.1:2"),
        a="global: {relays: 2, log: {user: plain}}\ndefaults: {timeouts: {queue: 2s}}\n"
        "virtual_services:\n" + service(name="a", listen="127.0.0.1:1"),
    )
    settings = load(main, environ={})
    assert ["farm", "a", "b"] == [item.name for item in settings.virtual_services]
    assert [(1.0, 2.0)] * 3 == [
        (item.timeouts.connect, item.timeouts.queue) for item in settings.virtual_services
    ]
    assert (2, "debug", "plain") == (
        settings.global_.relays,
        settings.global_.log.level,
        settings.global_.log.user,
    )


def test_services_may_all_be_in_conf_d(tmp_path: Path) -> None:
    """The main file need not have services."""
    main = tree(tmp_path, main="global: {relays: 1}\n", farm=farm())
    assert ["farm"] == [item.name for item in load(main, environ={}).virtual_services]


def test_a_value_that_two_files_set(tmp_path: Path) -> None:
    """A value, or a list, that two files set is told with both places; the rest is still checked."""
    main = tree(
        tmp_path,
        main="global: {relays: 2}\ndefaults: {persistence: {methods: []}}\n" + farm(),
        a="global: {relays: 2}\ndefaults:\n  persistence:\n    methods: []\n    timeout: 5\n  mode: {}\n",
        b="defaults: {mode: rdp}\nglobal: {log: {level: info}, relays: {}}\n",
    )
    assert [
        "DIR/conf.d/a.yaml:1:10: global.relays: already set at DIR/main.yaml:1:10; keep one of the two",
        (
            "DIR/conf.d/a.yaml:4:5: defaults.persistence.methods: already set at DIR/main.yaml:2:26;"
            " keep one of the two"
        ),
        (
            "DIR/conf.d/a.yaml:5:14: defaults.persistence.timeout: a duration needs a unit (ms, s, m, h, d):"
            " write 5s for 5 seconds"
        ),
        "DIR/conf.d/a.yaml:6:9: defaults.mode: expected rdp or tcp, got a mapping (key: value)",
        "DIR/conf.d/b.yaml:1:12: defaults.mode: already set at DIR/conf.d/a.yaml:6:3; keep one of the two",
        "DIR/conf.d/b.yaml:2:30: global.relays: already set at DIR/main.yaml:1:10; keep one of the two",
    ] == file_problems(main)


def test_problems_of_all_files_at_once(tmp_path: Path) -> None:
    """A file that is not YAML hides the problems of no other; the main file comes first."""
    main = tree(
        tmp_path,
        main="global: {relays: -1}\n",
        a="virtual_services: [\n",
        b="defaults: {redispatch: 99}\n",
        c="",
        d=b"# \xe4\n",
        e="virtual_services: 5\n",
        f="virtual_services:\n" + service("redispatch: 98"),
    )
    assert [
        "DIR/main.yaml:1:18: global.relays: expected auto or a number from 0 to 64, got the number -1",
        (
            "DIR/conf.d/a.yaml:2:1: not YAML: expected the node content, but found '<stream end>'"
            " while parsing a flow node"
        ),
        "DIR/conf.d/b.yaml:1:24: defaults.redispatch: must be at most 16, got 99",
        (
            "DIR/conf.d/c.yaml:1:1: the file is empty: a configuration has the keys"
            " global, defaults, virtual_services"
        ),
        "DIR/conf.d/d.yaml:1:3: byte 0xe4 is not UTF-8: save the file as UTF-8",
        "DIR/conf.d/e.yaml:1:19: virtual_services: expected a list, got the number 5",
        "DIR/conf.d/f.yaml:4:17: virtual_services[0].redispatch: must be at most 16, got 98",
    ] == file_problems(main)


def test_services_are_not_missed_when_a_file_is_unreadable(tmp_path: Path) -> None:
    """The services may be in the file that cannot be read: they are not called missing."""
    main = tree(tmp_path, main="global: {relays: -1}\n", a="virtual_services: [\n")
    assert 2 == len(file_problems(main))


def test_other_files_in_conf_d_are_left_out(tmp_path: Path) -> None:
    """Hidden files, other endings and backups are none of ours; a folder with our ending is told."""
    main = tree(tmp_path, main=farm())
    for name in (".#x.yaml", "x.yaml.off", "x.yml", "x.yaml~"):
        (tmp_path / "conf.d" / name).write_text("nonsense")
    assert 1 == len(load(main, environ={}).virtual_services)
    (tmp_path / "conf.d" / "sub.yaml").mkdir()
    assert ["DIR/conf.d/sub.yaml:1:1: cannot be read: it is a folder, not a file"] == file_problems(main)


def test_a_dangling_link_in_conf_d(tmp_path: Path) -> None:
    """A link to nowhere is told: services would be lost in silence."""
    main = tree(tmp_path, main=farm())
    (tmp_path / "conf.d" / "a.yaml").symlink_to("nowhere")
    assert ["DIR/conf.d/a.yaml:1:1: there is no such file: check the path"] == file_problems(main)


def test_conf_d_that_is_no_folder(tmp_path: Path) -> None:
    """A conf.d that cannot be listed is told: services would be lost in silence."""
    main = tmp_path / "main.yaml"
    main.write_text(farm("mode: x"))
    (tmp_path / "conf.d").write_text("")
    assert [
        "DIR/conf.d:1:1: cannot be listed: Not a directory",
        "DIR/main.yaml:4:11: virtual_services[0].mode: expected rdp or tcp, got 'x'",
    ] == file_problems(main)


def test_a_missing_file(tmp_path: Path) -> None:
    """A file that is not there is told in one line."""
    assert ["DIR/main.yaml:1:1: there is no such file: check the path"] == file_problems(
        tmp_path / "main.yaml"
    )


def test_a_folder(tmp_path: Path) -> None:
    """A folder is no file."""
    (tmp_path / "etc").mkdir()
    assert ["DIR/etc:1:1: cannot be read: it is a folder, not a file"] == file_problems(tmp_path / "etc")


def test_a_pipe_does_not_hang(tmp_path: Path) -> None:
    """A pipe without a writer is refused, not waited for."""
    os.mkfifo(tmp_path / "pipe")
    assert ["DIR/pipe:1:1: cannot be read: it is not an ordinary file"] == file_problems(tmp_path / "pipe")


def test_what_may_not_be_read(tmp_path: Path) -> None:
    """Files, and a conf.d, that the service's user may not read are told as that, never taken for missing."""
    folder = tmp_path / "etc"
    folder.mkdir()
    main = tree(folder, main=farm())
    folder.chmod(0)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)  # root may read everything: be nobody for a moment
    try:
        found = file_problems(main)
    finally:
        os.seteuid(user)
        folder.chmod(0o700)
    assert [
        "DIR/conf.d:1:1: cannot be listed: Permission denied",
        "DIR/main.yaml:1:1: may not be read: give the user of the service read permission",
    ] == found


def test_a_file_that_fails_to_be_read() -> None:
    """An error of the system is told in its own words."""
    assert ["DIR/mem:1:1: cannot be read: Input/output error"] == file_problems(Path("/proc/self/mem"))


def test_a_path_that_is_none(tmp_path: Path) -> None:
    """A path that the system does not take is told, not raised."""
    (found,) = file_problems(tmp_path / ("x" * 300))
    assert found.endswith(":1:1: cannot be read: File name too long")
    assert "DIR/a\0b:1:1: cannot be read: a path cannot have a null byte in it" in file_problems(
        tmp_path / "a\0b"
    )


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"\xff\xfea\x00", "1:1: saved as UTF-16 ('Unicode' in Windows Notepad): save it as UTF-8"),
        (b"a: 1\nb: \xc3\xa4\xff", "2:5: byte 0xff is not UTF-8: save the file as UTF-8"),
        (b"\xef\xbb\xbf\xff", "1:1: byte 0xff is not UTF-8: save the file as UTF-8"),
        (b"#" * (1024 * 1024 + 1), "1:1: longer than 1024 KiB: this is not the file that is meant"),
        (b"", "1:1: the file is empty: a configuration has the keys global, defaults, virtual_services"),
    ],
)
def test_bytes_that_are_no_text(tmp_path: Path, content: bytes, expected: str) -> None:
    """What cannot be a configuration by its bytes is told with the place of the first that is wrong."""
    main = tmp_path / "main.yaml"
    main.write_bytes(content)
    assert [f"DIR/main.yaml:{expected}"] == file_problems(main)


def test_a_byte_order_mark_is_no_character(tmp_path: Path) -> None:
    """A file of Windows Notepad is read, and the columns of its first line are right."""
    main = tmp_path / "main.yaml"
    main.write_bytes(b"\xef\xbb\xbf" + farm(before="global: {relays: x}\n").encode())
    assert [
        "DIR/main.yaml:1:18: global.relays: expected auto or a number from 0 to 64, got 'x'"
    ] == file_problems(main)
