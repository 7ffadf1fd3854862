"""Asking the running service; the options that many commands share."""

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
service_option = click.option("--service", help="Only this virtual service.")
reason_option = click.option("--reason", help="Why; shown and logged with it, beside who did it.")


def ask(context: click.Context, verb: str, *, timeout_s: float = 10.0, **params: Any) -> Any:
    """Ask the running service. Raises UnreachableError, RefusedError."""
    from rdpbalancer.control.client import Client

    with Client(context.obj["socket"], timeout_s=timeout_s) as client:
        return client.call(verb, **params)


def rows(context: click.Context, verb: str, **params: Any) -> Iterator[dict[str, Any]]:
    """Ask for a list, page by page, so that a long one is neither here nor there in memory.

    Raises UnreachableError, RefusedError.
    """
    from rdpbalancer.control.client import Client

    with Client(context.obj["socket"], timeout_s=10.0) as client:
        yield from client.pages(verb, **params)


def given(**params: Any) -> dict[str, Any]:
    """Return the parameters that were given: an option that was left out is not sent."""
    return {name: value for name, value in params.items() if value is not None}
