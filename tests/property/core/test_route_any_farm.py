"""What routing keeps whatever the farm looks like."""

import random
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from rdpbalancer.core import status as now_of
from rdpbalancer.core.farm import PersistencePolicy
from rdpbalancer.core.route import (
    Decision,
    Enqueue,
    Reject,
    Route,
    RouteRequest,
    SchedulerState,
    names_server,
    route,
)
from rdpbalancer.core.schedule import SCHEDULERS
from rdpbalancer.core.servers import ServerView
from rdpbalancer.model import Endpoint, Key, Method, Reason
from tests.unit.core.farms import ALICE, STATUSES, real_server, service_of, sid, view

NAMES = [f"ts{number}" for number in range(6)]
WITHOUT_CHANCE = sorted(set(SCHEDULERS) - {"random-two-choices"})
NOT_FOR_NEW_USERS = sorted(set(STATUSES) - {"online", "unknown"})  # an unknown one is waited for

states = st.one_of(st.just("online"), st.sampled_from(sorted(STATUSES)))


@dataclass(frozen=True)
class Case:
    """One decision to make."""

    views: list[ServerView]
    query: RouteRequest
    scheduler: str
    when_full_wait: bool
    seed: int

    def decide(self, views: list[ServerView] | None = None) -> tuple[Decision, bool]:
        """Decide, over these views or the case's own."""
        over = self.views if views is None else views
        policy = PersistencePolicy(wait_when_full=self.when_full_wait)
        service = service_of(over, scheduler=self.scheduler, persistence=policy)
        return route(self.query, service, over, SchedulerState(random.Random(self.seed)))


@st.composite
def some_views(draw: st.DrawFn) -> list[ServerView]:
    """Up to six servers of any state, some backups, some full."""
    views = []
    for name in draw(st.lists(st.sampled_from(NAMES), unique=True)):
        capacity = draw(st.sampled_from([0, 0, 2]))
        server = real_server(
            name, weight=draw(st.integers(1, 256)), max_connections=capacity, backup=draw(st.booleans())
        )
        views.append(view(server, draw(states), load=draw(st.integers(0, 4))))
    return views


@st.composite
def cases(draw: st.DrawFn, schedulers: list[str] | None = None) -> Case:
    """Anything that a connection may bring to any farm; names may be of servers that are not there."""
    key = draw(st.sampled_from([None, ALICE, Key(Method.SOURCE_IP, "192.0.2.1")]))
    token = draw(st.none() | st.sampled_from([*NAMES, "stranger"]))
    query = RouteRequest(
        source=str(draw(st.ip_addresses())),
        token=Endpoint(f"{token}.example.net", 3389) if token else None,
        key=key,
        bound_server=draw(st.none() | st.sampled_from([*NAMES, "gone"])) if key else None,
        excluded=draw(st.frozensets(st.sampled_from(NAMES).map(sid))),
    )
    scheduler = draw(st.sampled_from(schedulers or sorted(SCHEDULERS)))
    return Case(draw(some_views()), query, scheduler, draw(st.booleans()), draw(st.integers()))


def fresh(each: ServerView, case: Case) -> bool:
    return each.server.id not in case.query.excluded


def open_to_new(case: Case, *, backup: bool) -> list[ServerView]:
    return [
        each
        for each in case.views
        if each.server.backup is backup and now_of.takes_new(each.server, each.status) and fresh(each, case)
    ]


@given(cases())
def test_whoever_is_chosen_may_be_chosen(case: Case) -> None:
    """Configured, not tried, not full, and in a state that fits the reason."""
    decision, _ = case.decide()
    if not isinstance(decision, Route):
        return
    chosen = next(each for each in case.views if each.server.id == decision.server)
    assert fresh(chosen, case)
    assert not chosen.full
    if decision.reason is Reason.TOKEN:
        assert case.query.token is not None
        assert names_server(chosen, case.query.token)
        assert now_of.takes_token(chosen.status)
        assert (False, None) == (decision.binds, decision.replacing)
    elif decision.reason in {Reason.COOKIE, Reason.SOURCE_IP}:
        assert chosen.server.id.name == case.query.bound_server
        assert now_of.takes_bound(chosen.status)
        assert (True, None) == (decision.binds, decision.replacing)
    else:
        assert chosen in open_to_new(case, backup=decision.reason is Reason.BACKUP)
        assert decision.reason is Reason.BACKUP or chosen.server.backup is False
        assert (case.query.key is not None, case.query.bound_server) == (decision.binds, decision.replacing)
        assert decision.reason is not Reason.SCHEDULED or not (case.query.bound_server or case.query.excluded)


@given(cases())
def test_whoever_waits_waits_for_something(case: Case) -> None:
    """For a full server that would have it, for any because all that are open to it are full, or a check."""
    decision, _ = case.decide()
    if not isinstance(decision, Enqueue):
        return
    if decision.server is None:
        ordinary, backups = open_to_new(case, backup=False), open_to_new(case, backup=True)
        assert ordinary or backups or any(each.checking for each in case.views)
        assert all(each.full for each in ordinary or backups)
    else:
        target = next(each for each in case.views if each.server.id == decision.server)
        assert case.when_full_wait
        assert target.full
        assert fresh(target, case)
        assert now_of.takes_token(target.status)


@given(cases())
def test_no_connection_is_rejected_while_a_server_takes_it(case: Case) -> None:
    decision, _ = case.decide()
    if isinstance(decision, Reject):
        assert [] == open_to_new(case, backup=False) + open_to_new(case, backup=True)
        for each in case.views:
            assert each.server.id.name != case.query.bound_server or not (
                now_of.takes_bound(each.status) and fresh(each, case) and not each.full
            )


@given(cases())
def test_a_token_is_missed_or_followed(case: Case) -> None:
    """There is no third: what is neither there nor followed is not counted as missed."""
    decision, missed = case.decide()
    followed = isinstance(decision, Route) and decision.reason is Reason.TOKEN
    if case.query.token is None:
        assert not missed
    elif not isinstance(decision, Enqueue):
        assert missed is not followed


@given(
    case=cases(schedulers=WITHOUT_CHANCE),
    state=st.sampled_from(NOT_FOR_NEW_USERS),
    place=st.integers(0, 6),
    backup=st.booleans(),
)
def test_a_server_that_takes_nobody_changes_nothing(
    case: Case, state: str, place: int, *, backup: bool
) -> None:
    """Adding it anywhere moves no user of the others."""
    idle = view(real_server("idle", max_connections=1, backup=backup), state, load=3)
    before, after = case.decide(), case.decide([*case.views[:place], idle, *case.views[place:]])
    if isinstance(before[0], Reject):
        assert isinstance(after[0], Reject)
    else:
        assert before == after


@given(cases(schedulers=["weighted-round-robin"]), st.sampled_from(NOT_FOR_NEW_USERS))
def test_a_server_that_takes_nobody_does_not_change_round_robin(case: Case, state: str) -> None:
    """Row upon row of round robin is the same with it."""
    query = RouteRequest("192.0.2.1")
    rows = []
    for views in (case.views, [view("idle", state), *case.views]):
        service, wheel = service_of(views, scheduler=case.scheduler), SchedulerState(random.Random(0))
        rows.append([route(query, service, views, wheel)[0] for _ in range(10)])
    plain, beside = rows
    assert [each for each in plain if not isinstance(each, Reject)] == [
        each for each in beside if not isinstance(each, Reject)
    ]
