"""Base classes of the metrics: means over images, with a state of fixed dtype."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from object_discovery.metrics.contingency import move_off_mps


class FixedDtypeMetric(Metric):
    """Metric whose state moves between devices but keeps its dtype, also when the model is cast to half precision.

    On Apple's MPS, which has no float64, the state stays on the CPU.
    """

    full_state_update = False
    is_differentiable = False

    def _apply(self, fn: Callable[[Tensor], Tensor], exclude_state: Sequence[str] = "") -> Any:
        def move(tensor: Tensor) -> Tensor:
            device = fn(torch.empty(0, device=tensor.device)).device
            return move_off_mps(tensor) if device.type == "mps" else tensor.to(device)

        return super()._apply(move, exclude_state)


class ImageMean(FixedDtypeMetric):
    """Mean over images of one or several scores; subclasses compute the scores and call `add`.

    The state is a sum in float64 and two counts, whatever the number of images; it is summed over processes.

    Args:
        num_scores: Number of scores per image. None: one, and the mean is a scalar.
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
            scores: Scores of each image, `(B,)` or `(B, num_scores)`.
            skip_nan: Exclude scores that are NaN from the mean, and count images with such a score in `n_skipped`.
        """
        scores = scores.detach().to(self.total.device, torch.float64)
        skipped = scores.isnan() if skip_nan else torch.zeros_like(scores, dtype=torch.bool)
        self.total = self.total + scores.masked_fill(skipped, 0.0).sum(0)
        self.count = self.count + (~skipped).sum(0)
        self.n_skipped = self.n_skipped + skipped.reshape(len(scores), -1).any(1).sum()

    def compute(self) -> Any:
        """Compute the mean over all images so far.

        Returns:
            The mean, float64; NaN if no image has a score.
        """
        return self.total / self.count
