"""`object-discovery download`: fetch a published dataset and unpack it."""

from __future__ import annotations

import sys
import textwrap
from argparse import SUPPRESS, RawDescriptionHelpFormatter
from collections.abc import Sequence

import jsonargparse

from object_discovery.cli.flags import RESUMABLE, FlagParser, one_line_errors
from object_discovery.download import SOURCES, describe, download


class _ListingFormatter(RawDescriptionHelpFormatter, jsonargparse.DefaultHelpFormatter):
    """Help formatter that keeps the lines of the description."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        argv: The arguments. None: the process's own.
    """
    argv = sys.argv[1:] if argv is None else argv
    parser = _parser(argv[0] if argv and argv[0] in SOURCES else None)
    settings = vars(parser.parse_args(argv))
    listing = settings.pop("list")
    settings.update(verify=not settings.pop("no_verify"), progress=not settings.pop("no_progress"))
    if not listing and "root" not in settings:
        parser.error("expected NAME and ROOT; --list prints the names")
    with one_line_errors(interrupted=RESUMABLE):
        print("\n".join([describe()] if listing else download(**settings)))


def _parser(name: str | None) -> FlagParser:
    """Build the parser; with the name of a dataset, `--help` shows what that dataset consists of."""
    text = (
        "Download a published dataset and unpack it. An interrupted download continues when the same command is run "
        "again; files that are complete are left alone."
    )
    if name is None:
        parser = FlagParser("object-discovery download", text, "NAME ROOT")
    else:
        listing = f"{textwrap.fill(text, 79)}\n\n{describe(name)}"
        parser = FlagParser(f"object-discovery download {name}", listing, "ROOT", formatter_class=_ListingFormatter)
    option = SOURCES[name].option if name else None
    parser.add_argument(
        "name", metavar="NAME", nargs="?", default=SUPPRESS, help=SUPPRESS if name else "name of the dataset"
    )
    parser.add_argument("root", metavar="ROOT", nargs="?", default=SUPPRESS, help="folder to put it in")
    parser.add_argument("--list", action="store_true", help="print all datasets with their choices, files and sizes")
    for choice in ("variant", "split"):
        about = f"{choice} of the dataset, or all"
        parser.add_argument(f"--{choice}", help=SUPPRESS if name and option != choice else about)
    parser.add_argument("--url", metavar="BASE", help="address of a mirror that has all files in one folder")
    parser.add_argument("--keep", action="store_true", help="keep archives after unpacking them")
    parser.add_argument("--no-verify", action="store_true", help="accept other sizes and checksums")
    parser.add_argument("--no-progress", action="store_true", help="show no progress bar")
    return parser
