"""Segment the objects of image files: `object-discovery predict photo.jpg --checkpoint FILE`.

Without arguments the shipped checkpoint is applied to the shipped scenes. The prediction itself is in
:mod:`object_discovery.prediction`, which takes seconds to import, so that `--help` need not.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from object_discovery.cli.flags import FlagParser, add_flags, build, one_line_errors
from object_discovery.cli.inference import InferenceParams
from object_discovery.errors import check_argument, check_at_least
from object_discovery.pretrained import CHECKPOINT, SCENES


@dataclass
class PredictParams(InferenceParams):
    """Images and objects."""

    checkpoint: str = str(CHECKPOINT)
    """Checkpoint of a trained model, or the folder of its run; by default the shipped checkpoint."""
    out: str = "predictions"
    """Folder of the results; each image gets a folder of its name in it."""
    limit: int | None = None
    """Number of images, the first ones. None: all."""
    batch_size: int = 16
    """Images in a batch."""
    confidence: float = 0.5
    """Least confidence of the objects that set prediction lists, in [0, 1]."""

    def __post_init__(self) -> None:
        """Check ranges."""
        super().__post_init__()
        check_at_least(self, 1, "limit", "batch_size")
        check_argument(0 <= self.confidence <= 1, "confidence", "in [0, 1]", self.confidence)


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
