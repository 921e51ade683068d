"""`object-discovery compose`: recombine the slots of several images."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from object_discovery.cli.flags import FlagParser, add_flags, build, fail, one_line_errors
from object_discovery.cli.inference import InferenceParams


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        argv: The arguments. None: the process's own.

    Raises:
        SystemExit: With status 2 after a mistake, or if an image could not be read.
    """
    parser = FlagParser(
        "object-discovery compose",
        "Decompose up to eight images into slots, and decode each without its main object, with that of the next image "
        "in its place, and with both (slate).",
        "IMAGE|FOLDER ...",
    )
    parser.add_argument("images", nargs="+", metavar="IMAGE|FOLDER", help="Images, and folders of images.")
    add_flags(parser, InferenceParams)
    values: dict[str, Any] = vars(parser.parse_args(sys.argv[1:] if argv is None else list(argv)))
    params = build(InferenceParams, values)
    if params.checkpoint is None:
        fail("Expected argument `checkpoint` to be a trained model, but got None")
    with one_line_errors():
        from object_discovery.prediction.compose import compose_files

        path, unreadable = compose_files(values["images"], **vars(params))
        print(path)
    if unreadable:
        raise SystemExit(2)
