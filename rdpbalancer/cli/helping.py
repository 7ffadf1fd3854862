"""``help``: what `--help` says, for those who type the word first."""

import click


@click.command("help")
@click.argument("command", nargs=-1)
@click.pass_context
def show_help(context: click.Context, command: tuple[str, ...]) -> None:
    """Show help, of COMMAND if one is named."""
    above = context.parent or context
    found: click.Command = above.command
    for word in command:
        below = found.get_command(above, word) if isinstance(found, click.Group) else None
        if below is None:
            raise click.UsageError(f"there is no command {' '.join(command)!r}")
        above = click.Context(below, info_name=word, parent=above)
        found = below
    click.echo(found.get_help(above))


COMMANDS = [show_help]
