"""What the service as a whole is doing, as the supervisor's parts have to know before they start anything."""

from dataclasses import dataclass


@dataclass(slots=True)
class Phase:
    """Flags of one supervisor.

    `stopping`: it drains and ends. `upgrading`: its router makes way for new code's. `reverting`: it becomes
    the program before again. `ready`: a router of this program has been ready, once at least. `stop_later`,
    `reload_later`: asked for while there was no router to carry it out. `drain_s`: how long a stop lets
    sessions end by themselves.
    """

    drain_s: float = 0.0
    stopping: bool = False
    upgrading: bool = False
    reverting: bool = False
    ready: bool = False
    stop_later: bool = False
    reload_later: bool = False

    @property
    def starts_processes(self) -> bool:
        """Whether a process that has ended is started again."""
        return not self.stopping and not self.reverting
