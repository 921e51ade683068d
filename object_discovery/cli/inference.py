"""Settings that the commands on images of the user share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from object_discovery.base_params import MaskSource
from object_discovery.errors import check_argument


@dataclass
class InferenceParams:
    """Model and results."""

    checkpoint: str | None = None
    """Checkpoint of a trained model, or the folder of its run."""
    out: str = "predictions"
    """Folder of the results."""
    fit: Literal["crop", "squash"] | None = None
    """How non-square images are made square: by their central square, or squashed. None: as in training, or crop where
    the checkpoint does not tell."""
    num_slots: int | None = None
    """Number of slots. None: as trained."""
    num_iterations: int | None = None
    """Iterations of Slot Attention. None: as trained."""
    mask_source: MaskSource | None = None
    """Masks of the objects, see `train --help`. None: as in training."""
    seed: int = 0
    """Seed of the initial slots of models that sample them."""

    def __post_init__(self) -> None:
        """Check ranges."""
        check_argument(0 <= self.seed < 2**32, "seed", "from 0 to 2**32 - 1", self.seed)
