"""Upgrades of the running service, with everything that can go on, or wrong, meanwhile."""
