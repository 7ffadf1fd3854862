"""``demo`` and ``lab``: the balancer shown with simulated servers and users."""

COMMANDS: list[object] = []
