"""`object-discovery generate`: sample scenes from the prior of a generative model."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from object_discovery.cli.flags import FlagParser, add_flags, build, fail, one_line_errors
from object_discovery.errors import check_argument, check_at_least


@dataclass
class GenerateParams:
    """Model, number of scenes and results."""

    checkpoint: str | None = None
    """Checkpoint of a trained model with a prior of scenes (gnm), or the folder of its run."""
    num: int = 16
    """Number of scenes."""
    out: str = "predictions"
    """Folder of the results: `generated.png` with all scenes, `generated_slots.png`, and `generated/0000.png`, ..."""
    num_slots: int | None = None
    """Number of slots in `generated_slots.png`. None: as trained."""
    seed: int = 0
    """Seed of the scenes."""

    def __post_init__(self) -> None:
        """Check ranges."""
        check_at_least(self, 1, "num")
        check_argument(0 <= self.seed < 2**32, "seed", "from 0 to 2**32 - 1", self.seed)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        argv: The arguments. None: the process's own.
    """
    parser = FlagParser("object-discovery generate", "Sample scenes from the prior of a generative model (gnm).")
    add_flags(parser, GenerateParams)
    params = build(GenerateParams, vars(parser.parse_args(sys.argv[1:] if argv is None else list(argv))))
    if params.checkpoint is None:
        fail("Expected argument `checkpoint` to be a trained model, but got None")
    with one_line_errors():
        from object_discovery.prediction.generate import generate

        print(generate(**vars(params)))
