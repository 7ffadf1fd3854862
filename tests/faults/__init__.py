"""Faults injected on purpose: what breaks, and what must still hold then."""
