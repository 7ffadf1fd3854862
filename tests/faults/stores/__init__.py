"""Faults of the durable copy: kills, full disks, damaged and locked files, clocks that jump."""
