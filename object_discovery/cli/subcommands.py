"""Tables of subcommands, which are imported when they are chosen."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import NamedTuple

from object_discovery.cli.flags import fail, one_line_errors


class Subcommand(NamedTuple):
    """A subcommand of a command."""

    target: str
    """Its function, as `module:function`; called with the arguments after the name."""
    description: str
    """What it does, in one line."""


def dispatch(prog: str, description: str, table: Mapping[str, Subcommand], argv: Sequence[str]) -> None:
    """Run the subcommand that the first argument names; only its module is imported.

    Args:
        prog: The command, as the user types it.
        description: What the command is for; `--help` shows it above the subcommands.
        table: The subcommands by name.
        argv: The arguments; without any, the help is printed.

    Raises:
        SystemExit: With status 2 and one line, if there is no such subcommand; else as the subcommand ends.
    """
    name = choose_subcommand(prog, description, {name: entry.description for name, entry in table.items()}, argv)
    if name is None:
        return
    module, function = table[name].target.split(":")
    with one_line_errors():  # Ctrl-C during the import
        getattr(import_module(module), function)(argv[1:])


def choose_subcommand(prog: str, description: str, descriptions: Mapping[str, str], argv: Sequence[str]) -> str | None:
    """Return the subcommand that the first argument names, or print the help.

    Args:
        prog: The command, as the user types it.
        description: What the command is for; `--help` shows it above the subcommands.
        descriptions: What each subcommand does, in one line, by name.
        argv: The arguments; without any, the help is printed.

    Returns:
        The name of the subcommand; None after the help.

    Raises:
        SystemExit: With status 2 and one line, if there is no such subcommand.
    """
    name = argv[0] if argv else "--help"
    if name in ("-h", "--help"):
        with one_line_errors():
            print(_help(prog, description, descriptions))
        return None
    if name not in descriptions:
        similar = difflib.get_close_matches(name, descriptions, n=1)
        hint = f": did you mean {similar[0]}?" if similar else ""
        fail(f"Expected {prog} to be followed by one of {', '.join(descriptions)}, but got {name!r}{hint}")
    return name


def _help(prog: str, description: str, descriptions: Mapping[str, str]) -> str:
    width = max(map(len, descriptions))
    lines = [f"  {name:<{width}}  {text}" for name, text in descriptions.items()]
    return "\n".join(
        [f"usage: {prog} COMMAND ...", "", description, "", *lines, "", f"`{prog} COMMAND --help` shows its flags."]
    )
