"""Tests of the demonstration, as real processes."""
