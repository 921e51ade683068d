"""Cut the images of Sketchy from its published records, as GENESIS-V2 prepares them, without TensorFlow.

RECORDS holds the unpacked archives of all tasks; OUT gets train/ep000000/ep000000_t000_fl_full.png and so on. A run
that was stopped goes on where it stopped when it is started again.
"""

from __future__ import annotations

import argparse
import sys

from object_discovery.cli.script import ScriptParser, exit_status


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: The arguments. None: the process's own.

    Returns:
        The exit status: 0, 2 if something is wrong with the arguments or files, or 130 if interrupted.
    """
    parser = ScriptParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", metavar="RECORDS", help="folder with the episodes")
    parser.add_argument("target", metavar="OUT", help="folder to write train, valid and test to")
    parser.add_argument("--workers", metavar="W", type=int, help="episodes to convert at a time")
    parser.add_argument("--no-progress", dest="progress", action="store_false", help="show no progress bar")
    settings = parser.parse_args(arguments)

    def work() -> None:
        from object_discovery.data.conversion.sketchy import convert_sketchy

        episodes = convert_sketchy(**vars(settings))
        print(f"{settings.target}: {len(episodes)} episodes")

    return exit_status(work)


if __name__ == "__main__":
    sys.exit(main())
