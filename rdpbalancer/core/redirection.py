"""Following a server redirection whose routing token only its maker understands.

GNOME Remote Desktop redirects every login twice: the client is given a random number and comes back to the
same address with it as its routing token, and without a cookie. The number names nobody: only the host that
made it takes it, for 30 s, and every other closes without a word. So the client is led to where its source
has just come from, which is nearly always right; behind one address with many users the next server is tried.
"""

from collections import deque
from collections.abc import Iterator

import msgspec

from rdpbalancer.core.admission import source_network
from rdpbalancer.core.bucket import Buckets
from rdpbalancer.model import Key, SessionFacts

# For how long after a session's end a token may follow it. The host gives the client 30 s; the client's way,
# a certificate that the user has to accept among it, begins a little later than ours.
FOLLOWED_S = 60.0
# For how long a token is looked for: its maker gives it up after 30 s.
SEARCH_S = 30.0
# How many servers are asked whether a token is theirs. A wrong one says so in a round trip, so a farm of
# sixteen is searched whole.
MAX_ASKED = 16
# How many servers are asked, beyond those that any connection may try (`redispatch`), for all tokens of one
# source at once and again within a minute: fifty users who log in behind one address bring a hundred tokens,
# each asked for at every second of ten hosts or so. And only for a source that has a session or has just had
# one: a stranger who makes numbers up would otherwise make sixteen connections of each of his own.
SEARCHES = 1000
SEARCHES_AGAIN_S = 60.0
# Sources whose searches are counted; one beyond it pushes out the one that has been silent longest.
MAX_SEARCHING = 65_536
# Ended sessions that are remembered, of all services. At a thousand ends a second, a farm of 100,000 users
# whose network fails, it is the last minute's; beyond it the oldest are forgotten. About 20 MB.
MAX_ENDED = 65_536
# Of a source's sessions so many are looked at, the newest first: behind one address may be thousands.
MAX_LOOKED_AT = 256

Source = tuple[str, str]  # a service, and the source as it is counted


class RedirectionStep(msgspec.Struct, eq=False):
    """One session of a source: where it was, and whether a token has followed it.

    `key`: the binding that it keeps alive. `token`: the number that brought it, None: it came otherwise.
    `ended_at` (monotonic) None: it is live. `followed`: a connection with a token is on its way to the same
    server in its stead, or has arrived; each session is followed by one at most.
    """

    source: Source
    server: str
    key: Key | None
    token: int | None
    ended_at: float | None = None
    followed: bool = False


class _Steps(msgspec.Struct, eq=False):
    """A source's sessions: the live ones by id as they began, the ended ones as they ended."""

    live: dict[str, RedirectionStep] = msgspec.field(default_factory=dict)
    # None: none yet. An empty deque takes 760 bytes, and most sources have one live session for the day.
    ended: deque[RedirectionStep] | None = None


class Redirections:
    """Where every source's sessions are and have lately been. Live ones are as many as there are sessions."""

    def __init__(self) -> None:
        self._sources: dict[Source, _Steps] = {}
        self._live: dict[str, RedirectionStep] = {}
        self._ended: deque[RedirectionStep] = deque()
        self._tokens: dict[tuple[str, int], RedirectionStep] = {}
        self._searches = Buckets(MAX_SEARCHING)

    def __len__(self) -> int:
        return len(self._live) + len(self._ended)

    def opened(self, facts: SessionFacts, *, token: int | None) -> None:
        """A session has begun, or was found in a relay. `token`: the number that it came with."""
        source = (facts.service, source_network(facts.source))
        step = RedirectionStep(source, facts.server, facts.binding_key, token)
        steps = self._sources.get(source)
        if steps is None:
            steps = self._sources[source] = _Steps()
        steps.live[facts.id] = step
        self._live[facts.id] = step
        if token is not None:
            self._tokens[(facts.service, token)] = step

    def closed(self, session_id: str, *, now: float) -> None:
        """A session has ended: for a while a token may follow it."""
        step = self._live.pop(session_id, None)
        if step is None:
            return
        steps = self._sources[step.source]
        del steps.live[session_id]
        step.ended_at = now
        if steps.ended is None:
            steps.ended = deque()
        steps.ended.append(step)
        self._ended.append(step)
        self._forget(now)

    def candidates(self, service: str, source: str, token: int, *, now: float) -> list[RedirectionStep]:
        """Return a session of each server that may have made the token, the likeliest first.

        The token's own last session, live or just ended, is where its maker is: the same number may come
        again (the second redirection of GNOME's login). Then the source's sessions that no token has
        followed: those that have just ended, the newest first, and the live ones, whose end may not have
        been reported yet; and last those that have been followed.
        """
        self._forget(now)
        found: dict[str, RedirectionStep] = {}
        known = self._tokens.get((service, token))
        if known is not None:
            found[known.server] = known
        steps = self._sources.get((service, source_network(source)))
        if steps is not None:
            for followed in (False, True):
                for step in _newest_first(steps):
                    if step.followed is followed:
                        found.setdefault(step.server, step)
        return list(found.values())

    def knows(self, service: str, token: int) -> bool:
        """Whether the token's own last session is known: its maker is no guess."""
        return (service, token) in self._tokens

    def may_search(self, service: str, source: str, *, now: float) -> bool:
        """Whether one more server may be asked for a token of this source than for any other connection."""
        self._forget(now)
        counted = (service, source_network(source))
        if counted not in self._sources:
            return False
        return self._searches.spend(counted, whole=SEARCHES, refill_s=SEARCHES_AGAIN_S, now=now)

    def _forget(self, now: float) -> None:
        ended = self._ended
        while ended and (len(ended) > MAX_ENDED or (ended[0].ended_at or 0.0) + FOLLOWED_S <= now):
            step = ended.popleft()
            steps = self._sources[step.source]
            if steps.ended is not None:
                steps.ended.popleft()
                steps.ended = steps.ended or None
            if steps.ended is None and not steps.live:
                del self._sources[step.source]
            token = (step.source[0], step.token) if step.token is not None else None
            if token is not None and self._tokens.get(token) is step:
                del self._tokens[token]


def _newest_first(steps: _Steps) -> Iterator[RedirectionStep]:
    left = MAX_LOOKED_AT
    for some in (reversed(steps.ended or ()), reversed(steps.live.values())):
        for step in some:
            if not left:
                return
            left -= 1
            yield step
