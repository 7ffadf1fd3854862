"""Connections led through the dispatcher while its farm changes, in any order, against what is promised."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from rdpbalancer.core.farm import PersistencePolicy, RealServer
from rdpbalancer.core.ledger import ServerSlot
from rdpbalancer.core.persistence import Binding
from rdpbalancer.core.redirection import FOLLOWED_S
from rdpbalancer.core.route import Enqueue, Route, preferred_servers
from rdpbalancer.core.servers import ServerView
from rdpbalancer.core.status import ServerStatus
from rdpbalancer.model import Health, Intent, Key, Method, Reason, ServerId
from rdpbalancer.stores.memory import MemoryStore
from tests.unit.core.dispatch_fixture import TTL_S, Caller, DispatchFixture
from tests.unit.core.farms import SERVICE, real_server, server_status, sid

T = TypeVar("T")

NAMES = ("ts1", "ts2", "ts3", "sorry")
NUMBERS = (7, 3735928559)  # routing tokens that only their maker understands
KEYS = [Key(Method.RDP_COOKIE, "alice"), Key(Method.RDP_COOKIE, "bert"), Key(Method.SOURCE_IP, "192.0.2.1")]
NEW = (Reason.SCHEDULED, Reason.REDISPATCH, Reason.BACKUP)
# More turns than this for the connections of one run: they hand something round.
MOST_TURNS = 1000
REDISPATCH = 2

which = st.integers(0, 1000)


@st.composite
def farms(draw: st.DrawFn) -> list[RealServer]:
    """Draw a service's servers: at least one, each with few places, or with no limit."""
    names = draw(st.lists(st.sampled_from(NAMES), min_size=1, unique=True))
    return [
        real_server(
            name,
            max_connections=draw(st.sampled_from([1, 1, 2, 3, 0])),
            min_connections=draw(st.sampled_from([0, 0, 1, 2])),
            weight=draw(st.sampled_from([100, 100, 50, 0])),
            backup=name == "sorry",
        )
        for name in names
    ]


statuses: st.SearchStrategy[ServerStatus] = st.builds(
    server_status,
    st.sampled_from([Health.UP, Health.UP, Health.DOWN, Health.CHECKING]),
    intent=st.sampled_from([Intent.ONLINE, Intent.ONLINE, Intent.DRAIN, Intent.HALT]),
    strict=st.booleans(),
    agent=st.fixed_dictionaries({"max_connections": st.sampled_from([None, None, 1, 2])}),
)


class Places(RuleBasedStateMachine):
    """One virtual service, its connections and their queue."""

    def __init__(self) -> None:
        super().__init__()
        self.scene = DispatchFixture()
        self.reserved: list[Caller] = []
        self.confirmed: list[Caller] = []
        self.waiting: list[Caller] = []
        self.sessions: list[tuple[str, Key | None]] = []
        self.most: dict[ServerId, float] = {}
        self.makers: dict[int, tuple[str, str]] = {}
        self.followed: dict[str, float] = {}
        self.emptying: dict[ServerId, int] = {}
        self.configured: dict[str, Any] = {}

    @initialize(
        servers=farms(),
        scheduler=st.sampled_from(["weighted-least-connections", "weighted-round-robin", "first-available"]),
        wait_when_full=st.booleans(),
    )
    def begin(self, servers: list[RealServer], scheduler: str, *, wait_when_full: bool) -> None:
        """Take the first farm into use."""
        policy = PersistencePolicy(timeout_s=TTL_S, wait_when_full=wait_when_full)
        self.configured = {"scheduler": scheduler, "persistence": policy}
        self.scene.configure(*servers, **self.configured)

    # ---- the farm ----------------------------------------------------------------------------------

    @rule(servers=farms())
    def reload(self, servers: list[RealServer]) -> None:
        """Add, remove and change servers; or bring the service back."""
        self.scene.configure(*servers, **self.configured)

    @rule(chance=st.integers(0, 9))
    def remove_the_service(self, chance: int) -> None:
        """Remove it, sometimes."""
        if not chance:
            self.scene.apply()

    @precondition(lambda self: self.served)
    @rule(n=which, status=statuses)
    def change(self, n: int, status: ServerStatus) -> None:
        """A server's health, its operator's intent, or its agent's limit changes."""
        self.scene.status(pick(self.scene.service.servers, n).id.name, status)

    @rule(seconds=st.sampled_from([0.0, 1.0, 20.0, TTL_S]))
    def pass_time(self, seconds: float) -> None:
        """Claims run out and bindings expire."""
        self.scene.now += seconds
        for name in self.scene.dispatcher.farm.services:
            self.scene.dispatcher.bindings.of(name).expire(now=self.scene.now)

    # ---- connections -------------------------------------------------------------------------------

    @precondition(lambda self: self.served)
    @rule(
        key=st.sampled_from([None, *KEYS]),
        token=st.sampled_from([None, None, None, *NAMES, *NUMBERS]),
        source=st.sampled_from(["192.0.2.1", "192.0.2.2"]),
    )
    def come(self, key: Key | None, token: str | int | None, source: str) -> None:
        """Somebody comes, with a key, a routing token, both or neither."""
        named = real_server(token).address if isinstance(token, str) else token
        caller = Caller(key=key, token=named, source=source, service=self.scene.service)
        bindings = {each: self.stored(each) for each in KEYS}
        self.decide(caller)
        if isinstance(token, int):
            assert bindings == {each: self.stored(each) for each in KEYS}
            assert caller.go is None or not caller.go.binds

    @precondition(lambda self: any(caller.granted for caller in self.waiting))
    @rule(n=which)
    def wake(self, n: int) -> None:
        """Somebody who waited goes on: with a place, or to look again."""
        self.go_on(pick([caller for caller in self.waiting if caller.granted], n))

    @precondition(lambda self: self.waiting)
    @rule(n=which)
    def leave(self, n: int) -> None:
        """Somebody leaves the queue, perhaps in the moment of being granted a place."""
        caller = take(self.waiting, n)
        assert caller.waiter is not None
        self.scene.dispatcher.queues.leave(SERVICE, caller.waiter)
        for slot in caller.granted:
            if slot is not None:
                self.scene.dispatcher.release(slot, now=self.scene.now)

    @precondition(lambda self: self.reserved)
    @rule(n=which)
    def fail(self, n: int) -> None:
        """The server has refused; another is tried, up to `redispatch` times."""
        caller = take(self.reserved, n)
        self.scene.fail(caller)
        if len(caller.excluded) <= REDISPATCH:
            self.decide(caller)

    @precondition(lambda self: self.reserved or self.confirmed)
    @rule(n=which)
    def give_up(self, n: int) -> None:
        """The client is gone, or no relay takes the session."""
        self.scene.give_back(take(self.reserved or self.confirmed, n))

    @precondition(lambda self: self.reserved)
    @rule(n=which, confirms=st.sampled_from([True, True, True, False]))
    def answer(self, n: int, *, confirms: bool) -> None:
        """The server answers, with a Connection Confirm or with something else."""
        caller = take(self.reserved, n)
        assert caller.slot is not None
        if confirms:
            self.scene.confirm(caller)
        else:
            self.scene.dispatcher.bindings.drop_claim(caller.slot, now=self.scene.now)
        self.confirmed.append(caller)

    @precondition(lambda self: self.confirmed)
    @rule(n=which)
    def open(self, n: int) -> None:
        """A relay takes the session."""
        caller = take(self.confirmed, n)
        assert caller.slot is not None
        key, server = caller.slot.key, caller.slot.server.name
        session = self.scene.open(caller)
        self.sessions.append((session, key))
        if isinstance(caller.token, int):
            self.makers[caller.token] = (session, server)

    @precondition(lambda self: self.sessions)
    @rule(n=which)
    def close(self, n: int) -> None:
        """A session ends; the last one of its key starts the binding's time."""
        session, key = take(self.sessions, n)
        self.scene.close(session)
        self.followed[session] = self.scene.now + FOLLOWED_S
        if key is None or not self.served or self.scene.dispatcher.ledger.uses(SERVICE, key):
            return
        binding = self.stored(key)
        assert binding is None or self.scene.now + TTL_S == binding.expires_at

    # ---- the steps ---------------------------------------------------------------------------------

    def decide(self, caller: Caller) -> None:
        """Ask, and take the place or join the queue."""
        self.step(caller, functools.partial(self.scene.come, caller))

    def go_on(self, caller: Caller) -> None:
        """Go on after waiting."""
        self.waiting.remove(caller)
        self.step(caller, functools.partial(self.scene.wake, caller))

    def step(self, caller: Caller, move: Callable[[], object]) -> None:
        """Let a connection move, and see whether it went where its key is bound."""
        home = self.maker(caller) if isinstance(caller.token, int) else self.home(caller)
        ticket = caller.ticket
        resting = {view.server.id for view in self.views() if view.emptying}
        granted = any(slot is not None for slot in caller.granted)  # before the server was full, perhaps
        move()
        if caller.go is not None and caller.go.reason in NEW and not granted:
            assert caller.go.server not in resting, "a new user on a server that is emptying"
        if caller.slot is not None:
            self.reserved.append(caller)
        elif caller.waiter is not None:
            caller.granted = Witnessed(caller, self.was_granted)
            caller.waiter.grant = caller.granted.append
            self.waiting.append(caller)
            assert ticket in (None, caller.ticket)
        if home is not None and (isinstance(caller.token, int) or not (caller.go and not caller.go.binds)):
            assert home == destination(caller)

    def was_granted(self, caller: Caller, slot: ServerSlot | None) -> None:
        """A place goes to nobody while it suits somebody who came before."""
        if slot is None:
            return
        views = self.views()
        view = next(view for view in views if view.server.id == slot.server)
        earlier = [other for other in self.in_line() if (other.ticket or 0) < (caller.ticket or 0)]
        assert [] == [other for other in earlier if suits(other, view, views)]
        assert slot.server not in caller.excluded

    # ---- what is promised --------------------------------------------------------------------------

    @invariant()
    def a_server_that_was_full_is_closed_to_new_users(self) -> None:
        """From its limit on until it has fallen to `min_connections`, or is configured to take more."""
        before, self.emptying = self.emptying, {}
        for view in self.views():
            server, lower, most = view.server.id, view.server.min_connections, view.server.max_connections
            sessions = self.scene.dispatcher.ledger.sessions_on(server)
            still = server in before and before[server] >= most and sessions > lower
            closed = bool(lower and view.capacity) and (sessions >= view.capacity or still)
            assert closed == view.emptying, f"{server} has {sessions}"
            if closed:
                self.emptying[server] = most

    @invariant()
    def no_server_has_more_than_its_places(self) -> None:
        """Leases and sessions keep to the limit; one that was lowered meanwhile is reached from above."""
        for view in self.views():
            server, load = view.server.id, self.scene.dispatcher.ledger.load(view.server.id)
            limit = view.capacity or float("inf")
            assert load <= max(limit, self.most.get(server, 0)), f"{load} on {server}, which has {limit}"
        self.most = {sid(name): float(self.scene.load(name)) for name in NAMES}

    @invariant()
    def no_place_is_free_while_somebody_waits_for_it(self) -> None:
        """Whoever is in the line has found every place that suits taken, and still does."""
        views = self.views()
        free = [view for view in views if not view.full and view.takes_token]
        for caller in self.in_line():
            assert [] == [view.server.id.name for view in free if suits(caller, view, views)]

    @invariant()
    def a_binding_is_pinned_while_it_is_used(self) -> None:
        """And ages when it is not."""
        if not self.served:
            return
        live = {key for _, key in self.sessions}
        for key in KEYS:
            binding = self.stored(key)
            if key in live:
                assert binding is not None
                assert binding.expires_at is None
            elif not self.scene.dispatcher.ledger.uses(SERVICE, key):
                assert binding is None or binding.expires_at is not None

    @invariant()
    def the_ledger_counts_what_there_is(self) -> None:
        """Leases that were granted and not yet taken included."""
        granted = [slot for caller in self.waiting for slot in caller.granted if slot is not None]
        ledger = self.scene.dispatcher.ledger
        assert len(self.reserved) + len(self.confirmed) + len(granted) == ledger.reserved
        assert len(self.sessions) == len(ledger)
        assert ledger.reserved + len(ledger) == sum(self.scene.load(name) for name in NAMES)
        for name in NAMES:
            assert bool(self.scene.load(name)) <= ledger.scheduler_load(sid(name)) <= self.scene.load(name)
        if self.served:
            assert len(self.in_line()) == self.scene.dispatcher.queues.length(SERVICE)

    def teardown(self) -> None:
        """Everybody goes on until nothing moves, and then home: nothing is left."""
        turns = 0
        while ready := [caller for caller in self.waiting if caller.granted]:
            self.go_on(ready[0])
            turns += 1
            assert turns < MOST_TURNS, "the connections hand a place round"
        while self.waiting:
            self.leave(0)
        for caller in self.reserved + self.confirmed:
            self.scene.give_back(caller)
        for session, _ in self.sessions:
            self.scene.close(session)
        ledger = self.scene.dispatcher.ledger
        assert (0, 0) == (ledger.reserved, len(ledger))
        assert [(0, 0)] * len(NAMES) == [
            (self.scene.load(name), ledger.scheduler_load(sid(name))) for name in NAMES
        ]
        assert [0] * len(KEYS) == [ledger.uses(SERVICE, key) for key in KEYS]
        if self.served:
            self.scene.now += FOLLOWED_S
            for number in NUMBERS:
                caller = self.scene.come(token=number)
                assert caller.go is None or caller.go.reason is not Reason.TOKEN, "nobody is followed now"
                if caller.slot is not None:
                    self.scene.give_back(caller)
                elif caller.waiter is not None:
                    self.scene.dispatcher.queues.leave(SERVICE, caller.waiter)
            assert 0 == self.scene.dispatcher.queues.length(SERVICE)
            left = list(self.scene.dispatcher.bindings.of(SERVICE).entries(now=self.scene.now))
            assert [] == [entry for entry in left if not entry.confirmed or entry.expires_at is None]

    # ---- small questions ---------------------------------------------------------------------------

    @property
    def served(self) -> bool:
        """Whether the service is configured."""
        return SERVICE in self.scene.dispatcher.farm.services

    def views(self) -> list[ServerView]:
        """Return the servers as they are now."""
        if not self.served:
            return []
        return self.scene.dispatcher.servers.views(self.scene.service, now=self.scene.now)

    def in_line(self) -> list[Caller]:
        """Return those who wait and have heard nothing."""
        return [caller for caller in self.waiting if not caller.granted]

    def stored(self, key: Key) -> Binding | None:
        """Return the key's confirmed binding, whatever is claimed over it."""
        store = self.scene.dispatcher.bindings.of(SERVICE)
        assert isinstance(store, MemoryStore)
        return store.confirmed(key)

    def maker(self, caller: Caller) -> ServerId | None:
        """Return the server that has taken a connection's number before, where it can take it again."""
        assert isinstance(caller.token, int)
        session, server = self.makers.get(caller.token, ("", ""))
        if not session or not self.served or self.followed.get(session, self.scene.now + 1) <= self.scene.now:
            return None
        view = next((view for view in self.views() if view.server.id.name == server), None)
        if view is None or not view.takes_token or view.server.id in caller.excluded:
            return None
        own = any(slot is not None and slot.server == view.server.id for slot in caller.granted)
        waits = self.scene.service.persistence.wait_when_full
        return view.server.id if waits or own or not view.full else None

    def home(self, caller: Caller) -> ServerId | None:
        """Return the server to which a connection has to go or wait for, None: it may go anywhere."""
        if caller.key is None or not self.served or caller.token is not None:
            return None
        binding = self.scene.binding(caller.key)
        view = next(
            (view for view in self.views() if binding and view.server.id.name == binding.server), None
        )
        if view is None or not view.takes_bound or view.server.id in caller.excluded:
            return None
        own = any(slot is not None and slot.server == view.server.id for slot in caller.granted)
        waits = self.scene.service.persistence.wait_when_full
        return view.server.id if waits or own or not view.full else None


class Witnessed(list[ServerSlot | None]):
    """What a connection has been granted; a witness sees each grant in its very moment."""

    def __init__(self, caller: Caller, witness: Callable[[Caller, ServerSlot | None], None]) -> None:
        super().__init__()
        self._caller = caller
        self._witness = witness

    def append(self, slot: ServerSlot | None) -> None:
        """Be granted a place, or told to look again."""
        super().append(slot)
        self._witness(self._caller, slot)


def suits(caller: Caller, view: ServerView, views: Sequence[ServerView]) -> bool:
    """Whether a place on this server is what a connection in the line waits for."""
    assert caller.wanted is not None
    if caller.wanted.server is not None:
        return caller.wanted.server == view.server.id
    if not view.takes_new or view.emptying or view.server.id in caller.excluded:
        return False
    return all(server in caller.excluded for server in preferred_servers(view, views))


def destination(caller: Caller) -> ServerId | None:
    """Return where a connection goes, or which server it waits for."""
    match caller.go or caller.wanted:
        case Route(server=server) | Enqueue(server=server):
            return server
    return None


def pick(some: Sequence[T], n: int) -> T:
    """Return one of them."""
    return some[n % len(some)]


def take(some: list[T], n: int) -> T:
    """Take one out."""
    return some.pop(n % len(some))


TestPlaces = Places.TestCase
TestPlaces.settings = settings(stateful_step_count=60)
