"""The relay room, each part on its own."""
