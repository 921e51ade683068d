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
    name, *rest = argv or ["--help"]
    if name in ("-h", "--help"):
        with one_line_errors():
            print(_help(prog, description, table))
        return
    if name not in table:
        similar = difflib.get_close_matches(name, table, n=1)
        hint = f": did you mean {similar[0]}?" if similar else ""
        fail(f"Expected {prog} to be followed by one of {', '.join(table)}, but got {name!r}{hint}")
    module, function = table[name].target.split(":")
    with one_line_errors():  # Ctrl-C during the import
        getattr(import_module(module), function)(rest)


def _help(prog: str, description: str, table: Mapping[str, Subcommand]) -> str:
    width = max(map(len, table))
    lines = [f"  {name:<{width}}  {subcommand.description}" for name, subcommand in table.items()]
    return "\n".join(
        [f"usage: {prog} COMMAND ...", "", description, "", *lines, "", f"`{prog} COMMAND --help` shows its flags."]
    )
