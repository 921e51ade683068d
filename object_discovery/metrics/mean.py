"""Average a score over images: the state that every metric of the library keeps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from object_discovery.metrics.contingency import off_mps


class FullPrecision(Metric):
    """A metric whose state follows it to a device but never changes its type: half-precision training leaves it alone.

    Apple's MPS has no float64: there the state stays on the CPU.
    """

    full_state_update = False
    is_differentiable = False

    def _apply(self, fn: Callable[[Tensor], Tensor], exclude_state: Sequence[str] = "") -> Any:
        def move(tensor: Tensor) -> Tensor:
            device = fn(torch.empty(0, device=tensor.device)).device
            return off_mps(tensor) if device.type == "mps" else tensor.to(device)

        return super()._apply(move, exclude_state)


class ImageMean(FullPrecision):
    """Mean over images of one score or several; subclasses compute the scores and call `add`.

    The state is a sum in float64 and two counts, however many images are seen, and is added up over processes.

    Args:
        num_scores: Scores of each image. None: one, a scalar.
        kwargs: Arguments of `torchmetrics.Metric`.
    """

    total: Tensor
    count: Tensor
    n_skipped: Tensor

    def __init__(self, num_scores: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        shape = () if num_scores is None else (num_scores,)
        self.add_state("total", torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros(shape, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("n_skipped", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def add(self, scores: Tensor, *, skip_nan: bool = True) -> None:
        """Add the scores of a batch.

        Args:
            scores: `(B,)`, or `(B, num_scores)`.
            skip_nan: Leave scores that are NaN out of the mean; an image with one is counted in `n_skipped`.
        """
        scores = scores.detach().to(self.total.device, torch.float64)
        skipped = scores.isnan() if skip_nan else torch.zeros_like(scores, dtype=torch.bool)
        self.total = self.total + scores.masked_fill(skipped, 0.0).sum(0)
        self.count = self.count + (~skipped).sum(0)
        self.n_skipped = self.n_skipped + skipped.reshape(len(scores), -1).any(1).sum()

    def compute(self) -> Any:
        """Average over the images seen so far.

        Returns:
            The mean, float64; NaN if no image could be scored.
        """
        return self.total / self.count
