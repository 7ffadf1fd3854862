"""Decisions, one by one."""
