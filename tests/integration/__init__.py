"""One loop, or real processes, on loopback."""
