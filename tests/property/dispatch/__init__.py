"""Promises of the dispatcher that hold whatever happens, in any order."""
