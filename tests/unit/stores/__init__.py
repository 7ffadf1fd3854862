"""Tests of `rdpbalancer.stores`."""
