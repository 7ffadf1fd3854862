"""The balancer as real processes, while something kills, freezes or breaks a part of it."""
