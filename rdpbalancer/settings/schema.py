"""The schema of the configuration file: the one description that validation, editors and documents use."""

from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, Field

from rdpbalancer.model import Endpoint
from rdpbalancer.settings.fields import (
    MANY,
    AbsolutePath,
    AsWritten,
    Duration,
    Interval,
    OctalMode,
    OptionalListenAddress,
    OptionalPath,
    Relays,
    RuntimeDir,
    Whole,
)
from rdpbalancer.settings.service import (
    CheckType,
    FeedbackAgentSettings,
    HealthCheckSettings,
    LimitSettings,
    Model,
    OnCollision,
    OnDown,
    PersistenceSettings,
    PerSource,
    RealServerSettings,
    SchedulerName,
    SendProxy,
    ServiceDefaults,
    TimeoutSettings,
    VirtualServiceSettings,
    WhenFull,
)
from rdpbalancer.settings.units import Network, Rate

__all__ = [
    "CheckType",
    "Document",
    "FeedbackAgentSettings",
    "GlobalLimitSettings",
    "GlobalSettings",
    "HealthCheckSettings",
    "LimitSettings",
    "LogFormat",
    "LogLevel",
    "LogSettings",
    "LogUser",
    "MetricsSettings",
    "Network",
    "OnCollision",
    "OnDown",
    "PerSource",
    "PersistenceSettings",
    "Rate",
    "RealServerSettings",
    "SchedulerName",
    "SendProxy",
    "ServiceDefaults",
    "Settings",
    "TimeoutSettings",
    "VirtualServiceSettings",
    "WhenFull",
    "json_schema",
    "known_keys",
]

LogFormat = Literal["auto", "json", "logfmt", "console"]
LogLevel = Literal["debug", "info", "warning", "error"]
LogUser = Literal["plain", "hash", "off"]


class LogSettings(Model):
    """What is logged, and where."""

    format: LogFormat = Field(
        default="auto",
        description="auto is console on a terminal and json elsewhere; logfmt is key=value.",
    )
    level: LogLevel = Field(default="info", description="The least important records that are written.")
    user: LogUser = Field(
        default="hash",
        description="User names in the log: plain, off, or hash (with a key of this installation).",
    )
    file: OptionalPath = Field(default=None, description="The file that is written; null: standard error.")


class MetricsSettings(Model):
    """Where Prometheus reads the metrics."""

    listen: OptionalListenAddress = Field(
        default=Endpoint("127.0.0.1", 9389),
        description="The address and port of the HTTP endpoint; null turns it off.",
    )


class GlobalLimitSettings(Model):
    """The bounds of the whole balancer."""

    max_half_open: Whole = Field(
        default=4096,
        ge=1,
        le=MANY,
        description="Connections at once, of all services, that have not reached a server yet.",
    )


class GlobalSettings(Model):
    """The balancer itself."""

    state_dir: AbsolutePath = Field(
        default=Path("/var/lib/rdpbalancer"),
        description="Where bindings and the operator's decisions survive a restart. Created if missing.",
    )
    runtime_dir: RuntimeDir = Field(
        default=Path("/run/rdpbalancer"),
        description="Where control.sock, the socket of the command line, lives. Created if missing.",
    )
    relays: Relays = Field(
        default="auto",
        description="How many processes move bytes; auto: one per CPU; 0: the router does it itself.",
    )
    log: LogSettings = Field(
        default=LogSettings(), description="The log: its form, its place, and what it says of users."
    )
    metrics: MetricsSettings = Field(
        default=MetricsSettings(), description="The HTTP endpoint that Prometheus reads."
    )
    limits: GlobalLimitSettings = Field(
        default=GlobalLimitSettings(), description="Limits over all services together."
    )
    resolve_interval: Interval = Field(
        default=30.0, description="How often the host names of real servers are resolved anew."
    )
    shutdown_timeout: Duration = Field(
        default=10.0,
        description="How long the service waits, when it is stopped, for sessions to end before it closes"
        " them; 0: it closes them at once.",
    )
    control_socket_mode: OctalMode = Field(
        default="0660", description="The file mode of control.sock: who may use the command line."
    )


class Settings(Model):
    """The configuration as the service uses it: `defaults` are merged into every virtual service."""

    global_: GlobalSettings = Field(
        default=GlobalSettings(),
        alias="global",
        description="Settings of the balancer itself, beside its services.",
    )
    virtual_services: tuple[VirtualServiceSettings, ...] = Field(
        min_length=1, description="The addresses that clients connect to, each with its real servers."
    )


class Document(Settings):
    """The configuration as it is written."""

    defaults: ServiceDefaults = Field(
        default=ServiceDefaults(),
        description="Any key of a virtual service except name, listen and real_servers, for all of them."
        " A service's own value wins; mappings are merged key by key, lists are replaced.",
    )


def json_schema() -> dict[str, Any]:
    """Return the JSON schema of the file as it is written, for editors and for other programs."""
    schema = Document.model_json_schema(by_alias=True, schema_generator=AsWritten)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "rdpbalancer"}


def known_keys(path: tuple[str | int, ...]) -> list[str]:
    """Return the keys of the mapping at `path` of the file; an empty list if there is no mapping."""
    model: type[BaseModel] | None = Document
    for part in path:
        if isinstance(part, str) and model is not None:
            model = _model_in(_annotations(model).get(part))
    return [] if model is None else list(_annotations(model))


def _annotations(model: type[BaseModel]) -> dict[str, Any]:
    return {field.alias or name: field.annotation for name, field in model.model_fields.items()}


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """Find the model in an annotation: `Model`, `Model | None`, `tuple[Model, ...]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((model for part in get_args(annotation) if (model := _model_in(part))), None)
