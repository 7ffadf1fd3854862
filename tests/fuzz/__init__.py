"""Hostile bytes against every parser of `wire` and the control socket: `python -m tests.fuzz [SECONDS]`."""
