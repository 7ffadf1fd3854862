"""A balancer of its own for every test: it becomes another program."""

from tests.faults.balancer.conftest import new_balancer

__all__ = ["new_balancer"]
