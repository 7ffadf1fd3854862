"""The configuration: what holds for every text and every value."""
