"""Who has come, where each one's desktop is, and whether every return reached it. Pure."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from rdpbalancer.lab.population import Visit

NAMED_PROBLEMS: Final = 3


class Outcome(StrEnum):
    """Where a visit ended."""

    NEW = "new"  # the first visit
    OWN = "own"  # back on the desktop that was left
    MOVED = "moved"  # that desktop died with its server; a new one on another
    WRONG = "wrong"  # the desktop that was left is there, and this is another
    FAILED = "failed"  # no desktop at all
    EXCUSED = "excused"  # no desktop at all, for a server or a relay was just being killed


class Cause(StrEnum):
    """Why a session ended before its user left."""

    SERVER = "its server failed"
    RELAY = "its relay was killed"
    NONE = "nothing that was done to the farm"


@dataclass(slots=True)
class Person:
    """A user. `desktop` is the id of the user's desktop, `server` where it is; times are monotonic."""

    name: str
    desktop: str | None = None
    server: str | None = None
    source: str = ""
    visits: int = 0
    here: bool = False
    last: Outcome | None = None
    since_at: float = 0.0  # the first visit to the desktop
    changed_at: float = 0.0  # the last coming or going
    cut: Cause | None = None  # why the last session broke, until there is another


@dataclass(slots=True)
class Tally:
    """The books of a demonstration. Everything counts from its beginning."""

    people: dict[str, Person] = field(default_factory=dict)
    outcomes: Counter[Outcome] = field(default_factory=Counter)
    broken: Counter[Cause] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    users: int = 0
    lost: set[str] = field(default_factory=set)  # desktops that died with their server

    def person(self, name: str) -> Person:
        """Return a user, known or new."""
        if name not in self.people:
            self.users += 1
            self.people[name] = Person(name)
        return self.people[name]

    def at_home(self, server: str) -> list[Person]:
        """Return the users whose desktop is on `server`."""
        return [person for person in self.people.values() if person.server == server]

    def __iter__(self) -> Iterator[Person]:
        return iter(self.people.values())

    def arrived(self, visit: Visit, *, source: str, now: float, excuse: bool = False) -> Outcome:
        """Book a visit. `excuse`: a failed login is the doing of the demonstration."""
        person = self.person(visit.user)
        person.source, person.changed_at = source, now
        person.last = self._outcome(person, visit, excuse=excuse)
        self.outcomes[person.last] += 1
        if visit.landing is None:
            if person.last is Outcome.FAILED:
                self.problems.append(f"{person.name} could not log in ({visit.error})")
            return person.last
        person.here, person.cut = True, None
        person.visits += 1
        if person.last is Outcome.WRONG:
            self.problems.append(f"{person.name} was on {visit.landing.desktop}, not on {person.desktop}")
        elif person.last is not Outcome.OWN:
            person.desktop, person.server, person.since_at = visit.landing.desktop, visit.landing.server, now
        return person.last

    def left(self, name: str, *, now: float) -> None:
        """The user has disconnected."""
        person = self.person(name)
        person.here, person.changed_at = False, now

    def broke(self, name: str, what: str, cause: Cause) -> None:
        """A session ended, or garbled, before its user left. `what`: the code of the error."""
        if what == "corrupted":
            cause = Cause.NONE
        self.broken[cause] += 1
        self.person(name).cut = cause
        if cause is Cause.NONE:
            self.problems.append(f"a session of {name} broke ({what})")

    def lose(self, desktop: str) -> None:
        """The desktop is gone, its server having failed: whoever had it will get another."""
        self.lost.add(desktop)

    def retire(self, name: str) -> None:
        """The user will not come any more. What was counted stays."""
        person = self.people.pop(name)
        self.lost.discard(person.desktop or "")

    @property
    def visits(self) -> int:
        """The visits that reached a desktop."""
        return self.outcomes.total() - self.outcomes[Outcome.FAILED] - self.outcomes[Outcome.EXCUSED]

    @property
    def returns(self) -> int:
        """The visits of users who had been there before."""
        return self.visits - self.outcomes[Outcome.NEW]

    @property
    def wrong(self) -> int:
        """The returns to another desktop than the one that was left."""
        return self.outcomes[Outcome.WRONG]

    def _outcome(self, person: Person, visit: Visit, *, excuse: bool) -> Outcome:
        landing = visit.landing
        if landing is None:
            return Outcome.EXCUSED if excuse else Outcome.FAILED
        if person.desktop is None:
            return Outcome.NEW
        if landing.desktop == person.desktop:
            return Outcome.OWN
        return Outcome.MOVED if person.desktop in self.lost else Outcome.WRONG


def verdict(tally: Tally, problems: list[str]) -> str:
    """Return the verdict in one line. `problems`: everything that went wrong, the tally's and others."""
    if not problems:
        moved = tally.outcomes[Outcome.MOVED]
        besides = f", but for {moved} whose desktop died with its server" if moved else ""
        return (
            f"verdict: {tally.users} users, {tally.visits} visits,"
            f" every return reached the user's own desktop{besides}"
        )
    if tally.wrong:
        summary = f"{tally.wrong} of {tally.returns} returns did not reach the user's own desktop"
    else:
        summary = f"{len(problems)} things went wrong" if len(problems) > 1 else "something went wrong"
    more = len(problems) - NAMED_PROBLEMS
    named = "; ".join(problems[:NAMED_PROBLEMS]) + (f"; and {more} more" if more > 0 else "")
    return f"verdict: FAILED: {summary}: {named}"
