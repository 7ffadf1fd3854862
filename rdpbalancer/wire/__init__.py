"""Bytes to values and back: no clock, no socket, no log, no chance."""
