"""Relays and their router together, whatever is killed."""
