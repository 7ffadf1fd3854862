"""The health room, against simulated servers."""
