"""Download a published dataset and unpack it.

A run that was stopped goes on where it stopped when it is started again; what is there already is left alone.
"""

from __future__ import annotations

import argparse
import sys

from object_discovery.cli.script import ScriptParser


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: The arguments. None: the process's own.

    Returns:
        The exit status: 0, 2 if something is wrong with the arguments, the network or the disk, or 130 if interrupted.
    """
    parser = ScriptParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", metavar="NAME", nargs="?", help="name of the dataset")
    parser.add_argument("root", metavar="ROOT", nargs="?", help="folder to put it in")
    parser.add_argument("--list", action="store_true", help="print all datasets with their choices, files and sizes")
    parser.add_argument("--variant", help="variant of the dataset, or all")
    parser.add_argument("--split", help="split of the dataset, or all")
    parser.add_argument("--url", metavar="BASE", help="address of a mirror that has all files in one folder")
    parser.add_argument("--keep", action="store_true", help="keep archives that are unpacked")
    parser.add_argument("--no-verify", dest="verify", action="store_false", help="accept other sizes and checksums")
    parser.add_argument("--no-progress", dest="progress", action="store_false", help="show no progress bar")
    settings = vars(parser.parse_args(arguments))
    listing = settings.pop("list")
    if not listing and settings["root"] is None:
        parser.error("expected NAME and ROOT; --list prints the names")
    try:
        from object_discovery.download import describe, download  # here, so that Ctrl-C is caught while it loads

        print("\n".join([describe()] if listing else download(**settings)))
    except ValueError as error:  # UserError is one
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; run the same command again to go on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
