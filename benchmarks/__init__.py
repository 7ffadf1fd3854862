"""Measurements. `make bench-micro` runs the small ones with pyperf."""
