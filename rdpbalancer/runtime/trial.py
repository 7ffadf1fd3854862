"""Whether a new version has shown that it works, or is to be left again. Pure: time is an argument."""

from typing import Final

# From the new program's start to its router's READY. Together with the way back, which takes some seconds,
# this is how long newcomers may have to wait: 30 s.
READY_S: Final = 20.0
# What has worked for this long, from READY on, is there to stay.
TRIAL_S: Final = 60.0
# One death may be chance, two on a bad day; a version that dies a third time within its trial has a defect.
MAX_DEATHS: Final = 3


class Trial:
    """The first minute of a new version. `began_at` is monotonic seconds, as every `now` here."""

    def __init__(self, *, began_at: float) -> None:
        self._began_at = began_at
        self._ready_at: float | None = None
        self._deaths = {"router": 0, "relay": 0}
        self._last = ""

    @property
    def ready(self) -> bool:
        """Whether the router has been READY, once at least."""
        return self._ready_at is not None

    def router_ready(self, now: float) -> None:
        """The router takes connections."""
        if self._ready_at is None:
            self._ready_at = now

    def died(self, role: str, how: str) -> None:
        """A process of the new code has ended by itself; `how` is for people."""
        self._deaths[role] += 1
        self._last = f"its {role} ended: {how}"

    def failed(self, now: float) -> str:
        """Return why the version is to be left again, or nothing."""
        if max(self._deaths.values()) >= MAX_DEATHS:
            return self._last
        if self._ready_at is None and now - self._began_at >= READY_S:
            silent = f"its router was not ready within {READY_S:.0f} s"
            return f"{silent}; {self._last}" if self._last else silent
        return ""

    def passed(self, now: float) -> bool:
        """Return whether the version is there to stay."""
        return self._ready_at is not None and now - self._ready_at >= TRIAL_S and not self.failed(now)
