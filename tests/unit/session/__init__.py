"""The parts of a connection's way."""
