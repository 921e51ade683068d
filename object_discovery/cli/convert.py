"""`object-discovery convert`: convert downloaded records and label maps."""

from __future__ import annotations

import sys
from argparse import SUPPRESS
from collections.abc import Sequence
from typing import Any

from object_discovery.cli.flags import RESUMABLE, FlagParser, one_line_errors
from object_discovery.cli.subcommands import Subcommand, dispatch

PROG = "object-discovery convert"
DESCRIPTION = (
    "Convert downloaded records or label maps, once before training. An interrupted conversion continues when the same "
    "command is run again."
)
KINDS = {
    "records": Subcommand(f"{__name__}:convert_records", "TFRecords of multi_object_datasets to HDF5."),
    "sketchy": Subcommand(f"{__name__}:convert_sketchy", "Episodes of Sketchy to PNG files."),
    "labels": Subcommand(f"{__name__}:convert_labels", "16-bit or RGB label maps to 8-bit ones."),
}
"""What can be converted, by name."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        argv: The arguments. None: the process's own.
    """
    dispatch(PROG, DESCRIPTION, KINDS, sys.argv[1:] if argv is None else argv)


def convert_records(argv: Sequence[str]) -> None:
    """Run `object-discovery convert records`.

    Args:
        argv: The arguments.
    """
    parser = FlagParser(
        f"{PROG} records",
        "Convert a TFRecord file of DeepMind's multi_object_datasets to HDF5, without TensorFlow. Tetrominoes, "
        "Multi-dSprites, Objects Room and CLEVR with masks are recognised.",
        "SOURCE.tfrecords OUT.h5",
    )
    parser.add_argument("source", metavar="SOURCE.tfrecords", help="the file to convert")
    parser.add_argument("target", metavar="OUT.h5", help="the file to write")
    parser.add_argument("--dataset", metavar="NAME", help="name of the dataset; by default recognised")
    parser.add_argument("--limit", metavar="N", type=int, help="convert the first N scenes only")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT.h5 if it exists")
    settings = _parse(parser, argv)
    with one_line_errors(ValueError, interrupted=RESUMABLE):
        from object_discovery.data.conversion.tfrecords_to_hdf5 import convert_tfrecord

        print(f"{settings['target']}: {convert_tfrecord(**settings)} scenes")


def convert_sketchy(argv: Sequence[str]) -> None:
    """Run `object-discovery convert sketchy`.

    Args:
        argv: The arguments.
    """
    parser = FlagParser(
        f"{PROG} sketchy",
        "Crop the images of Sketchy from its published records, as GENESIS-V2 does, without TensorFlow. OUT gets "
        "train/ep000000/ep000000_t000_fl_full.png and so on.",
        "RECORDS OUT",
    )
    parser.add_argument("source", metavar="RECORDS", help="folder with the unpacked archives of all tasks")
    parser.add_argument("target", metavar="OUT", help="folder to write train, valid and test to")
    settings = _parse(parser, argv)
    with one_line_errors(ValueError, interrupted=RESUMABLE):
        from object_discovery.data.conversion import sketchy

        print(f"{settings['target']}: {len(sketchy.convert_sketchy(**settings))} episodes")


def convert_labels(argv: Sequence[str]) -> None:
    """Run `object-discovery convert labels`.

    Args:
        argv: The arguments.
    """
    parser = FlagParser(
        f"{PROG} labels",
        "Convert label maps with 16-bit or 32-bit labels, or with an RGB colour for each object, to 8-bit PNG files: "
        "0 stays the background (of RGB black), the objects of each image are numbered from 1.",
        "FOLDER [OUT]",
    )
    parser.add_argument("source", metavar="FOLDER", help="folder with the label maps")
    parser.add_argument(
        "target", metavar="OUT", nargs="?", default=SUPPRESS, help="folder to write to; by default FOLDER_8bit"
    )
    parser.add_argument("--ignore", metavar="LABEL", type=int, help="label of pixels to ignore, which becomes 255")
    settings = _parse(parser, argv)
    settings.setdefault("target", f"{settings['source']}".rstrip("/") + "_8bit")
    with one_line_errors(ValueError, interrupted=RESUMABLE):
        from object_discovery.data.conversion.label_maps import convert_label_maps

        print(f"{settings['target']}: {convert_label_maps(**settings)} label maps")


def _parse(parser: FlagParser, argv: Sequence[str]) -> dict[str, Any]:
    """Parse arguments with the flags that all conversions share; return them as keyword arguments."""
    parser.add_argument("--num_workers", metavar="W", type=int, help="worker threads; 0: the main thread alone")
    parser.add_argument("--no-progress", action="store_true", help="show no progress bar")
    settings = vars(parser.parse_args(list(argv)))
    return {"workers": settings.pop("num_workers"), "progress": not settings.pop("no_progress"), **settings}
