"""Simulated terminal servers and users, for the demo, the tests and the benchmarks."""
