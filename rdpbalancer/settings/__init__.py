"""The configuration: its schema, and a loader that reports every error at once, each with its place."""
