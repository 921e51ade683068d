"""Convert a TFRecord file of DeepMind's multi_object_datasets to HDF5, without TensorFlow.

Tetrominoes, Multi-dSprites, Objects Room and CLEVR with masks are recognised. A run that was stopped goes on where it
stopped when it is started again.
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
    parser.add_argument("source", metavar="SOURCE.tfrecords", help="the file to convert")
    parser.add_argument("target", metavar="OUT.h5", help="the file to write")
    parser.add_argument("--dataset", metavar="NAME", help="name of the dataset, if it is not to be recognised")
    parser.add_argument("--limit", metavar="N", type=int, help="convert the first N scenes only")
    parser.add_argument("--workers", metavar="W", type=int, help="threads that parse and compress")
    parser.add_argument("--no-progress", dest="progress", action="store_false", help="show no progress bar")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT.h5 if it exists")
    settings = parser.parse_args(arguments)

    def work() -> None:
        from object_discovery.data.conversion.tfrecords_to_hdf5 import convert

        count = convert(**vars(settings))
        print(f"{settings.target}: {count} scenes")

    return exit_status(work)


if __name__ == "__main__":
    sys.exit(main())
