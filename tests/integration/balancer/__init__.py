"""The balancer as real processes, with simulated servers and clients, on loopback."""
