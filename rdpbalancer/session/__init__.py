"""One accepted socket to one session: the whole way of a connection stands in `pipeline`."""

from rdpbalancer.session.pipeline import ConnectionHandler

__all__ = ["ConnectionHandler"]
