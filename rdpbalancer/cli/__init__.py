"""The command line: parse arguments, call, print. Heavy imports wait until a command needs them."""

import errno
import io
import os
import sys
from pathlib import Path
from typing import NoReturn

import click

from rdpbalancer import __version__
from rdpbalancer.cli import output

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
DEFAULT_SOCKET = Path("/run/rdpbalancer/control.sock")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, "-V", "--version", prog_name="rdpbalancer")
@click.option(
    "--socket",
    "socket_path",
    type=click.Path(path_type=Path),
    envvar="RDPBALANCER_SOCKET",
    default=DEFAULT_SOCKET,
    show_default=True,
    help="The control socket of the running service.",
)
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but what was asked for, and errors.")
@click.pass_context
def root(context: click.Context, socket_path: Path, *, quiet: bool) -> None:
    """Load balancer for Microsoft RDP: every user back on the desktop they left."""
    context.ensure_object(dict)
    context.obj = {"socket": socket_path, "quiet": quiet}


def _add_commands() -> None:
    from rdpbalancer.cli import helping, kick, lab, operate, service, show, state, status, token

    for module in (service, status, show, state, kick, operate, token, lab, helping):
        for command in module.COMMANDS:
            root.add_command(command)


def _run() -> None:
    try:
        root(prog_name="rdpbalancer")
    finally:
        if sys.stdout is not None:
            sys.stdout.flush()  # here, where a failure can be told


def _end_output(error: OSError) -> NoReturn:
    """End where nobody takes the output; raise any other error again."""
    if error.errno in _DISK_FULL:
        output.complain(f"the output cannot be written: {error.strerror}")
    elif error.errno != errno.EPIPE:  # the reader of a pipe (head, less) has seen enough
        raise error
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(output.EXIT_FAILED)


def main() -> None:
    """Run the command line."""
    from rdpbalancer.control.client import UnreachableError
    from rdpbalancer.errors import ConfigurationError, RdpBalancerError

    _add_commands()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name that the terminal's encoding lacks is no failure
            stream.reconfigure(errors="backslashreplace")
    try:
        _run()
    except UnreachableError as error:
        output.complain(str(error))
        sys.exit(output.EXIT_UNREACHABLE)
    except ConfigurationError as error:
        if error.code == "configuration":  # a line for each mistake, with its place first, as compilers do
            output.complain(str(error), program="")
        else:
            output.complain(str(error))
        sys.exit(output.EXIT_FAILED if error.code in output.PASSING else output.EXIT_CONFIGURATION)
    except RdpBalancerError as error:
        output.complain(str(error))
        # A reload's bad file is the same mistake as one that `check` and `run` find.
        bad_file = error.code == "configuration"
        sys.exit(output.EXIT_CONFIGURATION if bad_file else output.EXIT_FAILED)
    except OSError as error:
        _end_output(error)
