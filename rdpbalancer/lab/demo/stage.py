"""The scene of a demonstration: terminal servers and users in this process, the balancer in its own."""

import asyncio
import contextlib
import random
import tempfile
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rdpbalancer.lab.channel import LabError
from rdpbalancer.lab.demo.service import METHODS, DemoServer, DemoService
from rdpbalancer.lab.demo.tally import Cause, Outcome, Tally
from rdpbalancer.lab.opening import LabOpening
from rdpbalancer.lab.population import Population, Visit, by_cookie
from rdpbalancer.lab.server import LabServer
from rdpbalancer.lab.terminal import Session
from rdpbalancer.model import Endpoint, Method

WEIGHTS: Final = (100, 100, 50)
_UNKNOWN: Final = Endpoint("127.0.0.1", 0)  # until the balancer has told where it listens

# Short, so that a line on the screen holds a name beside a desktop; in the order of the alphabet.
_FIRST_NAMES: Final = (
    "alice bob carol david emma felix grace henry ida jack kate leo maria noah olga paul quinn rosa simon"
    " tina uma victor wendy xaver yara zoe anna ben clara dario elsa fritz gina hugo irene jonas karla lars"
    " mona nils"
)


class ForgetfulServer(LabServer):
    """Logs users off when they leave: none ever finds the desktop again. The verdict has to say so."""

    def end(self, session: Session) -> None:
        """The session is over, and so is its desktop."""
        super().end(session)
        if session.user is not None:
            self.desktops.log_off(session.user)


@dataclass(frozen=True, slots=True)
class Plan:
    """The farm of a demonstration. `methods` and `forgetful` can spoil it, on purpose."""

    weights: Sequence[int] = WEIGHTS
    methods: Sequence[Method] = METHODS
    forgetful: bool = False

    def make_server(self, number: int) -> LabServer:
        """Make terminal server `number`, from 1."""
        kind = ForgetfulServer if self.forgetful else LabServer
        return kind(name=f"ts{number}", security="nla")


class Stage:
    """What can be done to the farm and by its users. Everything is booked in `tally`."""

    def __init__(self, service: DemoService, plan: Plan, rng: random.Random) -> None:
        self.service = service
        self.servers: dict[str, LabServer] = {}
        self.tally = Tally()
        self.tell: Callable[[str], None] = lambda _text: None
        self.killing_relay = False  # sessions may end for it
        self.killing_router = False  # logins that are under way may fail for it, sessions may not
        self.nameless: Collection[str] = ()  # whose programs send no name
        self.worked_bytes = 0
        self._plan = plan
        self._weights: dict[str, int] = {}
        self._down: set[str] = set()
        self._numbers: dict[str, int] = {}
        self._elsewhere = 0
        self._sources: dict[str, str] = {}
        self.crowd = Population(
            _UNKNOWN, (), rng, opening=self._opening, source_of=lambda user: self._sources[user]
        )

    @property
    def endpoint(self) -> Endpoint:
        """The one address that users know: the balancer's."""
        return self.crowd.endpoint

    async def open(self) -> None:
        """Start the terminal servers, then the balancer. Raises DemoError."""
        for weight in self._plan.weights:
            self.add_server(weight)
        self.configure()
        self.crowd.endpoint = await self.service.start()

    async def close_servers(self) -> None:
        """Stop the terminal servers."""
        for server in self.servers.values():
            await server.stop()

    # ---- users -------------------------------------------------------------------------------------

    def new_users(self, count: int) -> list[str]:
        """Return `count` names that were not used before, each with an address of its own."""
        first = len(self._numbers) + 1
        names = [_name(number) for number in range(first, first + count)]
        self._numbers.update((name, first + at) for at, name in enumerate(names))
        return names

    async def come(self, user: str, *, elsewhere: bool = False) -> tuple[Outcome, Visit]:
        """Connect and log in; `elsewhere`: from an address that nobody has had before."""
        source = self._sources[user] = self._another_address() if elsewhere else self._own_address(user)
        visit = await self.crowd.come(user)
        excuse = self.killing_relay or self.killing_router or bool(self._down)
        outcome = self.tally.arrived(visit, source=source, now=_now(), excuse=excuse)
        self._tell_arrival(user, outcome, source=source if elsewhere else None)
        return outcome, visit

    async def work(self, user: str, total_bytes: int) -> None:
        """Exchange bytes and compare each. Raises LabError if the session broke; that is booked too."""
        try:
            await self.crowd.work(user, total_bytes)
        except LabError as error:
            self.tally.broke(user, error.code, self._cause(user))
            raise
        self.worked_bytes += total_bytes

    async def leave(self, user: str) -> None:
        """Disconnect."""
        await self.crowd.leave(user)
        self.tally.left(user, now=_now())

    async def all_leave(self) -> None:
        """Disconnect everybody who is there."""
        await asyncio.gather(*(self.leave(user) for user in self.crowd.present))

    # ---- the farm ----------------------------------------------------------------------------------

    async def status(self) -> dict[str, Any]:
        """Return what the balancer's control socket says."""
        status: dict[str, Any] = await self.service.call("status")
        return status

    def add_server(self, weight: int) -> str:
        """Start one more terminal server, and return its name. The balancer does not know it yet."""
        server = self._plan.make_server(len(self.servers) + 1)
        server.start()
        self.servers[server.name] = server
        self._weights[server.name] = weight
        return server.name

    def configure(self) -> None:
        """Write the balancer's configuration, with every server there is."""
        self.service.configure(
            [DemoServer(name, self.servers[name].endpoint, weight) for name, weight in self._weights.items()]
        )

    async def crash(self, server: str) -> int:
        """Let a server fail as if its power were cut; return how many desktops died with it."""
        self._down.add(server)
        failing = self.servers[server]
        await failing.stop(reset=True)
        dead = list(failing.desktops)
        for desktop in dead:
            self.tally.lose(desktop.id)
            failing.desktops.log_off(desktop.user)
        return len(dead)

    def boot(self, server: str) -> None:
        """Let a server that failed come back, with no desktop on it."""
        self.servers[server].start()
        self._down.discard(server)

    def _cause(self, user: str) -> Cause:
        if self.tally.person(user).server in self._down:
            return Cause.SERVER
        return Cause.RELAY if self.killing_relay else Cause.NONE

    def _opening(self, user: str) -> LabOpening:
        return LabOpening() if user in self.nameless else by_cookie(user)

    def _own_address(self, user: str) -> str:
        return _loopback(64, self._numbers[user])

    def _another_address(self) -> str:
        self._elsewhere += 1
        return _loopback(128, self._elsewhere)

    def _tell_arrival(self, user: str, outcome: Outcome, *, source: str | None) -> None:
        person = self.tally.person(user)
        whence = f", from another address ({source})" if source else ""
        match outcome:
            case Outcome.NEW:
                self.tell(f"{user} is new: desktop {person.desktop}")
            case Outcome.OWN:
                self.tell(f"{user} is back on desktop {person.desktop}{whence}")
            case Outcome.MOVED:
                self.tell(f"{user} gets a new desktop, {person.desktop}: the old one died with its server")
            case Outcome.WRONG:
                self.tell(f"{user} is NOT back on desktop {person.desktop}{whence}")
            case _:
                self.tell(f"{user} got no desktop and tries again")


@contextlib.asynccontextmanager
async def open_stage(plan: Plan, rng: random.Random) -> AsyncIterator[Stage]:
    """Start the terminal servers and the balancer. Nothing is left of them, nor of their folder, afterwards.

    Raises DemoError if the balancer does not start.
    """
    async with contextlib.AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="rdpbalancer-demo-"))
        service = DemoService(Path(folder), methods=plan.methods)
        stage = Stage(service, plan, rng)
        stack.push_async_callback(stage.close_servers)
        stack.push_async_callback(service.stop)
        await stage.open()
        stack.push_async_callback(stage.all_leave)
        yield stage


def _name(number: int) -> str:
    names = _FIRST_NAMES.split()
    return names[number - 1] if number <= len(names) else f"user{number}"


def _loopback(first: int, number: int) -> str:
    """Return an address of 127.0.0.0/8: `first` and the 63 numbers above it stand in the second place."""
    high, last = divmod(number - 1, 250)
    second, third = divmod(high, 256)
    return f"127.{first + second % 64}.{third}.{last + 1}"


def _now() -> float:
    return asyncio.get_running_loop().time()
