"""Settings of an evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from object_discovery.base_params import MaskSource
from object_discovery.errors import check_argument


@dataclass
class EvaluateParams:
    """Settings of an evaluation."""

    checkpoint: str | None = None
    """Checkpoint of the trained model, or folder of its training run; its dataset and resolution are the defaults
    of the flags below. None: score a baseline."""
    baseline: Literal["grid", "kmeans", "one"] | None = None
    """Score a baseline instead of the model: a grid of blocks, k-means, or one slot for the whole image."""
    baselines: bool = False
    """Score all baselines too, with as many slots as the model."""
    protocol: str = "default"
    """Evaluation protocol: default, slot-attention, clevrtex, dinosaur-320 or covloss-coco."""
    split: Literal["train", "val", "test"] | None = None
    """Split to score. None: that of the protocol."""
    num_slots: int | None = None
    """Number of slots. None: as in training."""
    num_iterations: int | None = None
    """Iterations of Slot Attention. None: as in training."""
    mask_source: MaskSource | None = None
    """Masks that are scored, see `train --help`. None: as in training. Published protocols score decoder masks."""
    particles: int | None = None
    """Importance samples per image for the log-likelihood, for models that have one (gnm). None: no log-likelihood."""
    precision: str = "32-true"
    """Lightning's precision."""
    accelerator: str = "auto"
    """Lightning's accelerator: auto, cpu, gpu, ..."""
    devices: str = "1"
    """Lightning's devices: a number, a list such as `0,2`, or auto."""
    seed: int = 0
    """Seed of models with random slot initialisation."""
    out: str | None = None
    """JSON file to write the scores to. None: print them only."""

    def __post_init__(self) -> None:
        """Check the values."""
        if self.checkpoint is None and self.baseline is None:
            raise ValueError("Expected argument `checkpoint` to be a trained model, or `baseline` to be a name")
        check_argument(
            self.num_slots is None or 1 <= self.num_slots <= 254, "num_slots", "from 1 to 254", self.num_slots
        )
        check_argument(0 <= self.seed < 2**32, "seed", "from 0 to 2**32 - 1", self.seed)
