"""Tests of what the demonstration decides and draws."""
