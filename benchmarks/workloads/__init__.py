"""The workloads, in the order of the table."""

from typing import Final

from benchmarks.workloads.base import Measure, Sample, Scale, Site, Target, Workload
from benchmarks.workloads.bulk import Bulk
from benchmarks.workloads.connect import Connect
from benchmarks.workloads.desktop import Desktop
from benchmarks.workloads.idle import Idle
from benchmarks.workloads.round_trip import RoundTrip
from benchmarks.workloads.storm import Storm

__all__ = ["NAMES", "Measure", "Sample", "Scale", "Site", "Target", "Workload", "workloads"]


def workloads(size: float = 1.0) -> list[Workload]:
    """Return all of them. `size` multiplies the large numbers of sessions."""
    return [
        Connect(),
        RoundTrip(sessions=1, size_bytes=100),
        RoundTrip(sessions=1, size_bytes=8000),
        RoundTrip(sessions=50, size_bytes=100),
        RoundTrip(sessions=50, size_bytes=8000),
        Bulk(),
        Desktop(sessions=round(500 * size)),
        Storm(clients=round(2000 * size)),
        # Two descriptors each in the load generator; HAProxy's `maxconn` is 7,500.
        Idle(sessions=round(5000 * size)),
    ]


NAMES: Final = ("connect", "round-trip", "bulk", "desktop", "storm", "idle")
