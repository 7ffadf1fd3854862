"""The net room, on loopback sockets."""
