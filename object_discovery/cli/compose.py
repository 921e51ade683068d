"""`object-discovery compose`: recombine the slots of several images."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from object_discovery.cli.flags import FlagParser, add_flags, build, fail, one_line_errors
from object_discovery.errors import check_argument


@dataclass
class ComposeParams:
    """Model and results."""

    checkpoint: str | None = None
    """Checkpoint of a trained model that decodes any set of slots (slate)."""
    out: str = "predictions"
    """Folder of the result, `composed.png`."""
    fit: Literal["crop", "squash"] | None = None
    """How non-square images are made square: by their central square, or squashed. None: as in training, or crop where
    the checkpoint does not tell."""
    num_slots: int | None = None
    """Number of slots. None: as trained."""
    num_iterations: int | None = None
    """Iterations of Slot Attention. None: as trained."""
    seed: int = 0
    """Seed of the initial slots of models that sample them."""

    def __post_init__(self) -> None:
        """Check ranges."""
        check_argument(0 <= self.seed < 2**32, "seed", "from 0 to 2**32 - 1", self.seed)


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
    add_flags(parser, ComposeParams)
    values: dict[str, Any] = vars(parser.parse_args(sys.argv[1:] if argv is None else list(argv)))
    params = build(ComposeParams, values)
    if params.checkpoint is None:
        fail("Expected argument `checkpoint` to be a trained model, but got None")
    with one_line_errors():
        from object_discovery.prediction.compose import compose_files

        path, unreadable = compose_files(values["images"], **vars(params))
        print(path)
    if unreadable:
        raise SystemExit(2)
