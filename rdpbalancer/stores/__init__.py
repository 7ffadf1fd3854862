"""Where bindings and the operator's settings are kept: in memory, and durably in SQLite."""
