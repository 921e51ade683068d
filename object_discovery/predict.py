"""Segment the objects of image files: `object-discovery predict photo.jpg --checkpoint FILE`.

Without arguments the shipped checkpoint is applied to the shipped scenes. The prediction itself is in
:mod:`object_discovery.prediction`, which takes seconds to import, so that `--help` need not.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from object_discovery.cli.flags import FlagParser, add_flags, build, one_line_errors
from object_discovery.errors import check_argument, check_at_least
from object_discovery.pretrained import CHECKPOINT, SCENES


@dataclass
class PredictParams:
    """Model, images and results."""

    checkpoint: str = str(CHECKPOINT)
    """Checkpoint of the trained model; by default the shipped one."""
    out: str = "predictions"
    """Folder of the results; each image gets a folder of its name in it."""
    fit: Literal["crop", "squash"] | None = None
    """How non-square images are made square: by their central square, or squashed. None: as in training, or crop where
    the checkpoint does not tell."""
    num_slots: int | None = None
    """Number of slots. None: as trained."""
    num_iterations: int | None = None
    """Iterations of Slot Attention. None: as trained."""
    limit: int | None = None
    """Number of images, the first ones. None: all."""
    batch_size: int = 16
    """Images in a batch."""
    seed: int = 0
    """Seed of the initial slots of models that sample them."""
    confidence: float = 0.5
    """Least confidence of the objects that set prediction lists, in [0, 1]."""

    def __post_init__(self) -> None:
        """Check ranges."""
        check_at_least(self, 1, "limit", "batch_size")
        check_argument(0 <= self.confidence <= 1, "confidence", "in [0, 1]", self.confidence)
        check_argument(0 <= self.seed < 2**32, "seed", "from 0 to 2**32 - 1", self.seed)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        argv: The arguments. None: the process's own.

    Raises:
        SystemExit: With status 2 after a mistake, or if an image could not be read.
    """
    parser = FlagParser("object-discovery predict", "Segment the objects of images of any size.", "[IMAGE|FOLDER ...]")
    parser.add_argument(
        "images",
        nargs="*",
        default=[str(SCENES)],
        metavar="IMAGE|FOLDER",
        help="Images, and folders of images; by default the shipped scenes.",
    )
    add_flags(parser, PredictParams)
    values = vars(parser.parse_args(sys.argv[1:] if argv is None else list(argv)))
    params = build(PredictParams, values)
    with one_line_errors():
        from object_discovery.prediction.files import predict_files

        unreadable = predict_files(values["images"], **vars(params))
    if unreadable:
        raise SystemExit(2)


if __name__ == "__main__":
    main()
