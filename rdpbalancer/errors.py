"""The errors of rdpbalancer: a stable code, whose fault it is, and whether another server may be tried.

Foreign exceptions (``OSError``, ``sqlite3.Error``, ``pydantic.ValidationError`` ...) are translated into
these once, at the edge where they occur.
"""

from enum import StrEnum
from typing import ClassVar


class Blame(StrEnum):
    """Who has to do something about an error."""

    CLIENT = "client"
    SERVER = "server"
    BALANCER = "balancer"
    OPERATOR = "operator"


class RdpBalancerError(Exception):
    """Base of every error raised on purpose.

    ``code`` is stable: it appears in metrics and logs, and tests and alerts may rely on it.
    """

    fault: ClassVar[Blame] = Blame.BALANCER
    try_another_server: ClassVar[bool] = False

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class ProtocolError(RdpBalancerError):
    """What the client sent cannot be, or become, an RDP connection request."""

    fault = Blame.CLIENT


class ClientError(RdpBalancerError):
    """The client left, was too slow, or may not come in."""

    fault = Blame.CLIENT


class ServerError(RdpBalancerError):
    """A real server refused, stayed silent or broke off before the client had seen anything of it."""

    fault = Blame.SERVER
    try_another_server = True


class NoServerError(RdpBalancerError):
    """No real server can take the connection now."""

    fault = Blame.OPERATOR


class ConfigurationError(RdpBalancerError):
    """The configuration, or a command of the operator, cannot be carried out as written."""

    fault = Blame.OPERATOR


class StoreError(RdpBalancerError):
    """The durable copy of the state cannot be read or written."""


class ChannelError(RdpBalancerError):
    """Two processes of the service do not understand each other, or one of them is gone."""
