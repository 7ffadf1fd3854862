"""``lab client``: simulated users, and where they landed."""

import random
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from rdpbalancer.cli import output
from rdpbalancer.cli.address import Address
from rdpbalancer.cli.output import counted, duration_text, listed
from rdpbalancer.cli.state import Duration
from rdpbalancer.cli.stopping import run_until_stopped
from rdpbalancer.model import Endpoint

if TYPE_CHECKING:
    from rdpbalancer.lab.opening import LabOpening
    from rdpbalancer.lab.population import Population, Visit

_UNREACHED = frozenset({"refused", "unreachable", "unresolved", "timeout"})


@click.command("client")
@click.argument("address", type=Address(3389, names=True))
@click.option("--user", help="One user of this name.")
@click.option("--users", type=click.IntRange(1, 100_000), help="So many users, all at the same time.")
@click.option("--visits", type=click.IntRange(1), default=1, show_default=True, help="How often each comes.")
@click.option("--source", help="The address they come from.")
@click.option("--work", type=click.IntRange(0), default=10_000, show_default=True, help="Bytes to exchange.")
@click.option("--hold", "hold_s", type=Duration(), default="0s", help="How long they stay, as in 60s.")
@click.option(
    "--pause", type=click.FloatRange(0), default=0.0, help="At most so many seconds between visits."
)
@click.option("--timeout", type=click.FloatRange(0, min_open=True), default=10.0, show_default=True)
@click.option(
    "--concurrency", type=click.IntRange(1), help="How many are there at once: 256, or all who --hold."
)
@click.option("--seed", type=int, help="Let chance repeat itself.")
@click.option("--no-cookie", is_flag=True, help="Send no user name.")
@click.option("--token", help="Send this routing token instead.")
@click.option("--protocols", type=click.IntRange(0, 2**32 - 1), default=11, help="Protocols offered.")
@click.option("--no-negotiation", is_flag=True, help="Offer none, as programs before 2003 do.")
@click.option("--proxy", type=click.IntRange(1, 2), help="Begin with a PROXY protocol header, v1 or v2.")
@click.option("--chunk-bytes", type=click.IntRange(1), help="Send the request in pieces of this size.")
@click.option("--chunk-pause", type=click.FloatRange(0), default=0.0, help="Seconds between the pieces.")
@click.pass_context
def lab_client(
    context: click.Context,
    /,
    *,
    address: Endpoint,
    user: str | None,
    users: int | None,
    visits: int,
    work: int,
    hold_s: float,
    pause: float,
    concurrency: int | None,
    **options: Any,
) -> None:
    """Let simulated users connect to ADDRESS, log in and work; print where they landed.

    Every byte is compared, and every return has to be to the desktop that was left: exit status 1 if not.
    """
    from rdpbalancer.lab.population import DEFAULT_CONCURRENCY, user_names

    if (user is None) == (users is None):
        raise click.UsageError("give --user NAME, or --users N")
    crowd = _population(address, [user] if user is not None else user_names(users or 0), **options)
    if hold_s and not context.obj["quiet"]:
        crowd.landed = lambda _visit: _tell_arrivals(crowd, hold_s)
    life = crowd.live(
        visits_each=visits,
        work_bytes=work,
        hold_s=hold_s,
        pause_s=pause,
        concurrency=concurrency or (len(crowd.users) if hold_s else DEFAULT_CONCURRENCY),
    )
    try:
        run_until_stopped(life)
    finally:
        if not context.obj["quiet"]:
            output.say("\n".join(_landings(crowd) if user is not None else _summary(crowd)))
    sys.exit(_status(crowd.visits, broken=bool(crowd.strayed() or crowd.ended)))


def _tell_arrivals(crowd: "Population", hold_s: float) -> None:
    """Say that everybody has come, for whoever waits to look at them."""
    if len(crowd.visits) == len(crowd.users):
        there = sum(visit.landing is not None for visit in crowd.visits)
        output.say(
            f"{there} of {counted(len(crowd.users), 'user')} there; each stays for {duration_text(hold_s)}"
        )


def _population(
    address: Endpoint,
    names: Sequence[str],
    *,
    source: str | None,
    timeout: float,
    seed: int | None,
    **options: Any,
) -> "Population":
    from rdpbalancer.lab.population import Population

    return Population(
        address,
        names,
        random.Random(seed),  # noqa: S311 (simulated users are random, not secret)
        opening=lambda name: _opening(name, **options),
        source_of=lambda _name: source,
        timeout_s=timeout,
    )


def _opening(
    user: str,
    *,
    no_cookie: bool,
    token: str | None,
    protocols: int,
    no_negotiation: bool,
    proxy: int | None,
    chunk_bytes: int | None,
    chunk_pause: float,
) -> "LabOpening":
    from rdpbalancer.lab.opening import LabOpening

    return LabOpening(
        cookie=None if no_cookie or token is not None else user,
        token=None if token is None else token.encode(),
        requested_protocols=None if no_negotiation else protocols,
        proxy_version=proxy,
        chunk_bytes=chunk_bytes,
        pause_s=chunk_pause,
    )


def _landings(crowd: "Population") -> Iterator[str]:
    """Tell each visit."""
    for visit in crowd.visits:
        landing = visit.landing
        if landing is None:
            yield f"{visit.user}: no desktop ({visit.error})"
            continue
        how = f"back, visit {landing.visit}" if landing.returned else "new"
        redirected = f", redirected {counted(landing.redirects, 'time')}" if landing.redirects else ""
        yield f"{visit.user}: desktop {landing.desktop} on {landing.server} ({how}{redirected})"
    yield from _odd_lines(crowd)


def _summary(crowd: "Population") -> Iterator[str]:
    """Tell where all of them were."""
    servers = Counter(visit.landing.server for visit in crowd.visits if visit.landing is not None)
    errors = Counter(visit.error for visit in crowd.visits if visit.error is not None)
    where = ", ".join(f"{server} {count}" for server, count in sorted(servers.items()))
    users, visits = counted(len(crowd.users), "user"), counted(servers.total(), "visit")
    yield f"{users}, {visits}: {where or 'nobody landed'}"
    if errors:
        yield "no desktop: " + ", ".join(f"{count} {code}" for code, count in errors.most_common())
    yield from _odd_lines(crowd)


def _odd_lines(crowd: "Population") -> Iterator[str]:
    if crowd.ended:
        yield f"{counted(len(crowd.ended), 'session')} ended early: {listed(sorted(crowd.ended), most=5)}"
    for user, desktops in sorted(crowd.strayed().items()):
        yield f"{user} was on more than one desktop: {', '.join(sorted(desktops))}"


def _status(visits: "Sequence[Visit]", *, broken: bool) -> int:
    errors = {visit.error for visit in visits if visit.error is not None}
    if errors and errors <= _UNREACHED and not any(visit.landing for visit in visits):
        return output.EXIT_UNREACHABLE
    return output.EXIT_FAILED if errors or broken else 0
