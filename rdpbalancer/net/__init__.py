"""Sockets: listening, accepting, reading one opening under a deadline, dialling, resolving names."""
