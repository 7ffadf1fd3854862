"""``drain``, ``halt``, ``online``, ``weight``: what operators want of servers."""

import sys
from collections.abc import Callable, Sequence
from typing import Any, Final

import click

from rdpbalancer.cli import output
from rdpbalancer.cli.asking import ask, given, json_option, reason_option, service_option
from rdpbalancer.cli.emptying import Emptying
from rdpbalancer.cli.output import counted, listed

# Names in a line of what was done. Whoever names a hundred servers by a pattern knows it.
_NAMED: Final = 8
# After the deadline sessions are ended by the relays, which say so at once.
_KICK_S: Final = 10.0


class Duration(click.ParamType[float]):
    """A duration as in the configuration: 500ms, 30s, 5m, 1h."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return seconds."""
        from rdpbalancer.settings.units import parse_duration_s

        if isinstance(value, float):
            return value
        try:
            return parse_duration_s(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Weight(click.ParamType[str]):
    """A weight, 0 to 256, or a percentage of the configured one."""

    name = "weight"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the text, which is good."""
        text = str(value)
        number = text.removesuffix("%")
        if not (number.isascii() and number.isdecimal() and int(number) <= (100 if "%" in text else 256)):
            self.fail(
                f"{text!r} is neither a weight, 0 to 256, nor a percentage of the configured one", param, ctx
            )
        return text


def _state_command(state: str, text: str) -> click.Command:
    """Make the command that sets servers' state; drain and halt can wait for them to be empty."""

    @click.pass_context
    def command(context: click.Context, /, servers: tuple[str, ...], **options: Any) -> None:
        deadline_s, wait = options.pop("deadline", None), options.pop("wait", False)
        as_json, kick = options.pop("as_json"), options.pop("kick", False)
        wanted = given(servers=list(servers), state=state, **options)
        answer = ask(context, "set-state", **wanted, kick=kick and deadline_s is None)
        left, who = 0, ""
        if wait or deadline_s is not None:
            emptying = Emptying(context, [row["server"] for row in answer["servers"]])
            left = emptying.wait(deadline_s)
            if left and kick:
                left = _end_sessions(context, answer, wanted, emptying)
            who = left_text(left, emptying.names(_NAMED)) if left else ""
            for row in answer["servers"]:
                row["sessions"] = emptying.counts.get(row["server"], 0)
        _report(context, answer, state, as_json=as_json)
        if left:
            output.complain(f"the wait ran out; {who}")
            sys.exit(output.EXIT_WAIT_RAN_OUT)

    command.__doc__ = text
    made: Callable[..., Any] = click.argument("servers", nargs=-1, required=True, metavar="SERVER...")(
        service_option(reason_option(json_option(command)))
    )
    if state != "online":
        made = click.option("--kick", is_flag=True, help="End the sessions: now, or at the --deadline.")(made)
        made = click.option("--wait", is_flag=True, help="Return when the servers have no session left.")(
            made
        )
        made = click.option("--deadline", type=Duration(), help="Wait at most this long, as in 30m.")(made)
    if state == "drain":
        strict = "Send bound users elsewhere too; only routing tokens are still honoured."
        made = click.option("--strict", is_flag=True, help=strict)(made)
    return click.command(state)(made)


def _end_sessions(
    context: click.Context, answer: dict[str, Any], wanted: dict[str, Any], emptying: Emptying
) -> int:
    """End what is left at the deadline, and enter that in `answer`; return how many are left after that.

    Not on servers that somebody has given another state meanwhile: their users are there with good reason.
    """
    words = {f"{row['service']}/{row['name']}": row["operator"]["state"] for row in ask(context, "servers")}
    servers = [row["server"] for row in answer["servers"]]
    changed = [server for server in servers if words.get(server, wanted["state"]) != wanted["state"]]
    if changed:
        named = listed(changed, most=_NAMED)
        output.complain(f"{named}: not {wanted['state']} any more by a later word; nobody is ended there")
    ours = [server for server in servers if server in words and server not in changed]
    if ours:
        options = {name: word for name, word in wanted.items() if name not in ("servers", "service")}
        answer["kicked"] += ask(context, "set-state", **options, servers=ours, kick=True)["kicked"]
        Emptying(context, ours).wait(_KICK_S)
    return emptying.wait(0.0)


def _report(context: click.Context, answer: dict[str, Any], state: str, *, as_json: bool) -> None:
    if as_json:
        output.print_json(answer)
    elif not context.obj["quiet"]:
        for line in report(answer, state):
            output.say(line)


def left_text(count: int, names: Sequence[str]) -> str:
    """Return how many sessions are left, and whose, as far as they are named."""
    more = f" and {count - len(names)} more" if count > len(names) > 0 else ""
    return f"{counted(count, 'session')} left: {', '.join(names)}{more}"


def report(answer: dict[str, Any], state: str) -> list[str]:
    """Return what was done, and what keeps it from coming about: an agent's word, a server that is down."""
    rows = answer["servers"]
    kicked = f", {answer['kicked']} ended" if answer["kicked"] else ""
    sessions = counted(sum(row["sessions"] for row in rows), "session")
    lines = [f"{listed([row['server'] for row in rows], most=_NAMED)}: {state} ({sessions}{kicked})"]
    for effective in dict.fromkeys(row["state"] for row in rows if row["state"] != state):
        named = listed([row["server"] for row in rows if row["state"] == effective], most=_NAMED)
        lines.append(
            f"{named}: stays in {effective}, as its feedback agent says; only the agent takes that back"
        )
    down = [row["server"] for row in rows if state == "online" and row["health"] == "down"]
    if down:
        lines.append(f"{listed(down, most=_NAMED)}: down, so nobody is sent there; `show servers` says why")
    return lines


@click.command("weight")
@click.argument("servers", nargs=-1, required=True, metavar="SERVER... WEIGHT")
@click.option("--reset", is_flag=True, help="Back to the configured weight; in place of WEIGHT.")
@service_option
@reason_option
@json_option
@click.pass_context
def set_weight(
    context: click.Context, /, servers: tuple[str, ...], *, reset: bool, as_json: bool, **options: str | None
) -> None:
    """Set servers' weight at run time: 0 to 256, or a percentage of the configured one.

    It is kept over restarts. 0 drains.
    """
    names, weight = (servers, None) if reset else _weight_of(context, servers)
    if reset and len(names) > 1 and names[-1].removesuffix("%").isdecimal():
        message = (
            f"--reset goes back to the configured weight and takes no {names[-1]}; leave one of them out"
        )
        raise click.UsageError(message)
    params: dict[str, Any] = {"servers": list(names), **_weight_params(weight), **given(**options)}
    answer = ask(context, "set-weight", **params)
    if as_json:
        output.print_json(answer)
    elif not context.obj["quiet"]:
        said = (
            "as configured" if weight is None else f"{weight} of the configured" if "%" in weight else weight
        )
        output.say(f"{listed(answer['servers'], most=_NAMED)}: weight {said}")


def _weight_of(context: click.Context, words: Sequence[str]) -> tuple[Sequence[str], str]:
    """Return the servers, and the weight behind them. Raises click.UsageError."""
    if len(words) < 2:
        message = "give a weight (0 to 256, or a percentage of the configured one), or --reset"
        raise click.UsageError(message)
    return words[:-1], Weight().convert(words[-1], None, context)


def _weight_params(weight: str | None) -> dict[str, int | None]:
    if weight is not None and weight.endswith("%"):
        return {"percent": int(weight[:-1])}
    return {"weight": None if weight is None else int(weight)}


COMMANDS = [
    _state_command("drain", "Give servers no new users; those who are bound to them still come back."),
    _state_command("halt", "Give servers nobody at all; live sessions stay."),
    _state_command("online", "Give servers users again."),
    set_weight,
]
