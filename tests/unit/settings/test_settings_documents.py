"""The samples and the reference say what the schema says; neither can drift from it unnoticed."""

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from ruamel.yaml import YAML

from rdpbalancer.settings.load import load
from rdpbalancer.settings.schema import (
    Document,
    GlobalSettings,
    ServiceDefaults,
    Settings,
    json_schema,
    known_keys,
)
from tests.unit.settings.farm import farm, loaded, problems

ROOT = Path(__file__).parents[3]
SAMPLE = ROOT / "config" / "rdpbalancer.yaml"
REFERENCE = ROOT / "docs" / "reference" / "configuration.md"
TITLE = re.compile(r"#+ `(.+)`")
ROW = re.compile(r"\| `(\w+)` \| (.+?) \| (.+?) \| (.+) \|")
SERVERS = "virtual_services[].real_servers[]"


def schema_rows() -> dict[tuple[str, str], object]:
    """Return the default of every key of the schema by section and key; `required` where there is none.

    The keys of `defaults` are those of a service, and those of a server's own check and agent are those
    of its service: they are documented once.
    """
    written = json_schema()
    rows: dict[tuple[str, str], object] = {}

    def walk(section: str, node: dict[str, Any]) -> None:
        for key, field in node["properties"].items():
            path = key if section == "file" else f"{section}.{key}"
            inner = target(field)
            repeated = path == "defaults" or path.startswith((f"{SERVERS}.health", f"{SERVERS}.feedback"))
            if inner is not None and not repeated:
                walk(path + "[]" * ("items" in field), inner)
            required = key in node.get("required", [])
            rows[section, key] = "required" if required else field["default"]

    def target(field: dict[str, Any]) -> dict[str, Any] | None:
        names = re.findall(r"#/\$defs/(\w+)", str(field))
        found = [written["$defs"][name] for name in names if "properties" in written["$defs"][name]]
        return found[0] if found else None

    walk("file", written)
    return rows


def reference_rows() -> dict[tuple[str, str], str]:
    """Return the default of every row of the reference's tables, as it is written there."""
    rows = {}
    section = ""
    for line in REFERENCE.read_text().splitlines():
        if title := TITLE.fullmatch(line):
            section = title[1]
        elif line.startswith("#"):
            section = ""
        elif section and (row := ROW.fullmatch(line)):
            rows[section, row[1]] = row[3]
    return rows


def test_the_reference_has_every_option_and_no_other() -> None:
    """Each option has its row, in the table of its section; no row is of an option that is gone."""
    assert set(schema_rows()) == set(reference_rows())
    assert 70 < len(reference_rows())


def test_the_reference_has_the_right_defaults() -> None:
    """The default in a row is the one that holds; that of a mapping is in the table of its own."""
    yaml = YAML(typ="safe", pure=True)
    documented = reference_rows()
    for row, default in schema_rows().items():
        text = documented[row]
        if default == "required":
            assert "required" == text, row
        elif text.startswith("see "):
            assert isinstance(default, dict), row
        else:
            assert default == yaml.load(text.strip("`")), row


def test_the_examples_of_the_reference_are_right() -> None:
    """An example that is copied works."""
    examples = re.findall(r"```yaml\n(.*?)```", REFERENCE.read_text(), re.DOTALL)
    assert 3 == len(examples)
    for example in examples:
        assert loaded(example).virtual_services


def test_the_messages_of_the_reference_are_real() -> None:
    """The mistakes that the reference shows are told in those words, at those places."""
    command, *shown = REFERENCE.read_text().split("```console\n")[1].split("```")[0].splitlines()
    file = command.split()[-1]
    text = farm(
        "scheduller: x",
        "mode: rdp",
        servers="""real_servers:
      - {name: ts1, address: "10.0.0.1:3389", weight: 300}""",
    )
    assert shown == [line.replace("f:", f"{file}:", 1) for line in problems(text)]


@pytest.mark.parametrize("name", ["rdpbalancer.yaml", "minimal.yaml"])
def test_the_samples_are_right(name: str) -> None:
    """Both samples can be started as they are."""
    assert "ts-cluster" == load(ROOT / "config" / name, environ={}).virtual_services[0].name


def test_the_sample_shows_the_defaults() -> None:
    """What the sample says is what holds without it."""
    settings = load(SAMPLE, environ={})
    assert GlobalSettings() == settings.global_
    service = settings.virtual_services[0]
    assert ServiceDefaults() == ServiceDefaults(
        **{name: getattr(service, name) for name in ServiceDefaults.model_fields}
    )
    minimal = load(ROOT / "config" / "minimal.yaml", environ={})
    assert minimal.global_ == settings.global_
    assert minimal.virtual_services[0].real_servers == service.real_servers[:2]


def test_the_sample_shows_every_option() -> None:
    """Nobody has to look for an option elsewhere."""
    text = SAMPLE.read_text()
    missing = [key for _, key in schema_rows() if not re.search(rf"\b{key}:", text)]
    assert [] == missing


def test_the_commented_parts_of_the_sample_are_right() -> None:
    """A part that is uncommented works."""
    text = SAMPLE.read_text()
    head, gateway = text.split("\n  # - name: rd-gateway")
    uncommented = head + "\n  - name: rd-gateway" + gateway.replace("\n  # ", "\n  ")
    uncommented = uncommented.replace("\n  # feedback_agent:", "\n  feedback_agent:").replace(
        "\n  #   ", "\n    "
    )
    uncommented = uncommented.replace("\n  feedback_agent: null", "").replace(
        "        # health", "        health"
    )
    services = loaded(uncommented).virtual_services
    assert ["ts-cluster", "rd-gateway"] == [item.name for item in services]
    assert (
        services[0].feedback_agent
        == loaded(text.replace("feedback_agent: null", "feedback_agent: {}"))
        .virtual_services[0]
        .feedback_agent
    )
    assert services[0].feedback_agent is not None
    assert 3390 == services[0].real_servers[0].health_check.port


def models(model: type[BaseModel]) -> set[type[BaseModel]]:
    """Return `model` and every model that its fields lead to."""
    found = {model}
    for field in model.model_fields.values():
        stack: list[Any] = [field.annotation]
        while stack:
            annotation = stack.pop()
            if isinstance(annotation, type) and issubclass(annotation, BaseModel):
                found |= models(annotation)
            stack += getattr(annotation, "__args__", ())
    return found


def test_every_field_is_described_and_every_model_is_strict() -> None:
    """No field without a description, no model that takes unknown keys or can be changed."""
    found = models(Document) | models(Settings)
    assert 15 == len(found)
    for model in found:
        assert "forbid" == model.model_config.get("extra"), model
        assert model.model_config.get("frozen") is True, model
        for name, field in model.model_fields.items():
            assert field.description, (model, name)
            assert re.search(r"[.:;]$|[a-z0-9]\.$", field.description), (model, name)


def test_the_file_has_the_keys_of_the_document() -> None:
    """The keys at the top are the three that the reference names first."""
    assert {"global", "defaults", "virtual_services"} == set(known_keys(()))
