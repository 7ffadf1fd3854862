"""Strangers' bytes against every parser of `wire`: `python -m tests.fuzz [SECONDS]`."""
