"""All workloads through all proxies, round after round, alternating, so that all see the same machine."""

import contextlib
import gc
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from benchmarks import machine
from benchmarks.farm import DIRECT, Serving, direct, serving
from benchmarks.load.loop import LoadError, Loop
from benchmarks.load.servers import Servers
from benchmarks.proxies import PROXIES
from benchmarks.workloads import Sample, Scale, Site, Target, Workload
from benchmarks.workloads.desktop import Desktop

_LATENCIES: Final = {"p50_us": "added_p50_us", "p99_us": "added_p99_us"}
_FRESH_ROUNDS: Final = 2  # starting a proxy takes long, and memory hardly varies
_COMFORTABLE_SHARE: Final = 0.55  # of a core for the load without a proxy; with one it needs more
_TRIAL_SIZE: Final = 0.4
_TRIAL_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run. `limit_s`: no further round is begun that would not end by then."""

    workloads: list[Workload]
    proxies: Sequence[str]
    rounds: int
    scale: Scale
    limit_s: float


@dataclass(slots=True)
class Outcome:
    """What came out, by the workload's title, the proxy and the round; and what should be known of it."""

    samples: dict[str, dict[str, dict[int, Sample]]] = field(default_factory=dict)
    failures: dict[tuple[str, str], str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    rounds: int = 0

    def keep(self, workload: str, proxy: str, number: int, sample: Sample) -> None:
        """Take one sample in."""
        self.samples.setdefault(workload, {}).setdefault(proxy, {})[number] = sample
        for note in sample.notes:
            self.note(f"{workload}, {proxy}: {note}")

    def note(self, text: str) -> None:
        """Say something once."""
        if text not in self.notes:
            self.notes.append(text)


def run(plan: Plan) -> Outcome:
    """Carry the plan out. Whatever happens, no process and no folder stays behind."""
    cores = machine.choose_cores()
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cores.load})
    loop = Loop()
    servers = Servers(loop)
    gc.freeze()
    gc.disable()  # a collection in the middle of a window would be charged to whoever is measured
    try:
        with contextlib.ExitStack() as stack:
            idlers = stack.enter_context(machine.awake(cores))
            return _Runner(plan, Site(loop, servers), cores, stack, idlers).run()
    finally:
        gc.enable()
        servers.close()
        loop.close()
        os.sched_setaffinity(0, allowed)


class _Runner:
    def __init__(
        self,
        plan: Plan,
        site: Site,
        cores: machine.Cores,
        stack: contextlib.ExitStack,
        idlers: Sequence[int],
    ) -> None:
        self._plan = plan
        self._idlers = idlers
        self._site = site
        self._cores = cores
        self._stack = stack
        self._outcome = Outcome()
        self._running: dict[str, Serving] = {}
        self._began_at = time.monotonic()

    def run(self) -> Outcome:
        if self._cores.load == self._cores.proxy:
            self._outcome.note("only one core: the load generator and the proxy share it")
        if any(not workload.fresh for workload in self._plan.workloads):
            for name in self._plan.proxies:
                _say(f"starting {name}")
                self._start(name)
        self._plan.workloads[:] = [
            self._affordable(workload) if isinstance(workload, Desktop) else workload
            for workload in self._plan.workloads
        ]
        busy_s, own_s = machine.busy_s(), self._own_s()
        began_at = time.monotonic()
        self._rounds()
        wall_s = time.monotonic() - began_at
        others = (machine.busy_s() - busy_s - (self._own_s() - own_s)) / wall_s
        self._outcome.note(f"other processes used {max(0.0, others):.2f} of the machine's cores meanwhile")
        self._check_records()
        return self._outcome

    def _start(self, name: str) -> None:
        started = serving(name, PROXIES[name], self._site, self._cores.proxy)
        try:
            self._running[name] = self._stack.enter_context(started)
        except LoadError as error:
            self._outcome.failures["start", name] = str(error)

    def _own_s(self) -> float:
        """Return the CPU seconds of ourselves, of the proxies that run, and of those that have ended.

        And of those who keep the cores awake: they take what nobody wants.
        """
        running = sum(one.running.cpu_ns() for one in self._running.values()) / 1e9
        running += machine.cpu_ns(self._idlers) / 1e9
        ended = os.times()
        return time.process_time() + running + ended.children_user + ended.children_system

    def _rounds(self) -> None:
        longest_s = 0.0
        for number in range(1, self._plan.rounds + 1):
            began_at = time.monotonic()
            if number > 1 and began_at - self._began_at + longest_s > self._plan.limit_s:
                self._outcome.note(f"stopped after {number - 1} rounds: time is up")
                return
            for workload in self._plan.workloads:
                _say(f"round {number} of {self._plan.rounds}: {workload.title}")
                if not workload.fresh or number <= _FRESH_ROUNDS:
                    self._all_proxies(workload, number)
            self._outcome.rounds = number
            longest_s = max(longest_s, time.monotonic() - began_at)

    def _all_proxies(self, workload: Workload, number: int) -> None:
        reference = None
        if workload.direct:
            reference = self._once(workload, DIRECT, number, self._no_proxy)
        for name in self._plan.proxies:
            if not workload.fresh and name not in self._running:
                continue
            sample = self._once(workload, name, number, self._fresh if workload.fresh else self._ready)
            if sample is not None and reference is not None:
                _subtract(sample.values, reference.values)

    @contextlib.contextmanager
    def _fresh(self, name: str) -> Iterator[Target]:
        with serving(name, PROXIES[name], self._site, self._cores.proxy) as one:
            yield one.target

    @contextlib.contextmanager
    def _ready(self, name: str) -> Iterator[Target]:
        yield self._running[name].target

    @contextlib.contextmanager
    def _no_proxy(self, _name: str) -> Iterator[Target]:
        yield direct(self._site)

    def _once(
        self,
        workload: Workload,
        name: str,
        number: int,
        target: Callable[[str], contextlib.AbstractContextManager[Target]],
    ) -> Sample | None:
        try:
            self._site.settle()
            with target(name) as ready:
                sample = workload.run(self._site, ready, self._plan.scale)
        except LoadError as error:
            self._outcome.failures[workload.title, name] = f"{error}{self._last_words(name)}"
            return None
        self._outcome.keep(workload.title, name, number, sample)
        return sample

    def _last_words(self, name: str) -> str:
        one = self._running.get(name)
        return f"; its log ends with: {one.running.tail()}" if one is not None else ""

    def _affordable(self, workload: Desktop) -> Desktop:
        """Find out, without a proxy, how many desktops the load generator can play; the same for all."""
        trial = Desktop(max(1, round(workload.sessions * _TRIAL_SIZE)))
        try:
            self._site.settle()
            used = trial.run(self._site, direct(self._site), Scale(_TRIAL_S)).load_share / _TRIAL_SIZE
        except LoadError:
            used = 2.0
        if used <= _COMFORTABLE_SHARE:
            return workload
        fewer = max(10, int(workload.sessions * _COMFORTABLE_SHARE / used) // 10 * 10)
        return Desktop(fewer, wanted=workload.sessions)

    def _check_records(self) -> None:
        """Say so if a proxy did not log every session: then it did less work than the others."""
        self._site.settle()
        self._site.loop.run(1.0)  # the last lines are on their way
        for name, one in self._running.items():
            written = one.running.records()
            wanted = self._site.servers.sessions_of(one.target.tag)
            if written < wanted:
                self._outcome.note(f"{name} logged {written} of {wanted} sessions")


def _subtract(values: dict[str, float], reference: Mapping[str, float]) -> None:
    """Turn latencies into what the proxy adds to them."""
    for key, added in _LATENCIES.items():
        if key in values:
            values[added] = values[key] - reference[key]


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
