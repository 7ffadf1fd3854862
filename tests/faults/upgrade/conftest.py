"""A balancer of its own for every test: it becomes another program."""

from tests.faults.balancer.conftest import new_house

__all__ = ["new_house"]
