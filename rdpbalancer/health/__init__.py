"""Watching real servers: probes, the feedback agent, and the loops that run them."""
