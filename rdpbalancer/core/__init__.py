"""Decisions. Time and chance are arguments; nothing here waits, reads a socket or writes a log."""
