"""A balancer of its own for every test: it is flooded."""

from tests.faults.balancer.conftest import new_balancer

__all__ = ["new_balancer"]
