"""The configuration: every rule with its message and its place."""
