"""The processes: supervisor, router, relay; the composition root."""
