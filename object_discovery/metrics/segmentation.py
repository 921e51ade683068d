"""FG-ARI, ARI, mBO and mIoU, computed together from one contingency table per image."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from object_discovery.metrics.ari import ari_from_table, check_unscorable
from object_discovery.metrics.contingency import contingency_table
from object_discovery.metrics.mean import ImageMean
from object_discovery.metrics.overlap import best_overlap_from_table, matched_iou_from_table

_NAMES = ("fg_ari", "ari", "mbo_i", "miou")


class SegmentationScores(ImageMean):
    """FG-ARI, ARI, mBO and mIoU of the same images; none of them is sufficient alone.

    `update` counts the pixels once, does not synchronise with the device, and keeps sums only. Images without a true
    object are excluded from FG-ARI, mBO and mIoU.

    Args:
        num_slots: Number of predicted labels. None: the maximum of each batch plus one (waits for the GPU).
        unscorable: `skip`, or `one` to score images without a pixel to score 1 in `fg_ari` and `ari`; see `ARI`.
        prefix: Prefix of the names of the scores; with one, `n_skipped` is left out.
        kwargs: Arguments of `torchmetrics.Metric`.

    Raises:
        ValueError: If `unscorable` is unknown.

    Example:
        >>> scores = SegmentationScores(num_slots=3)
        >>> scores.update(torch.tensor([[0, 0, 1, 2]]), torch.tensor([[0, 0, 1, 2]]))
        >>> {name: float(score) for name, score in scores.compute().items()}
        {'fg_ari': 1.0, 'ari': 1.0, 'mbo_i': 1.0, 'miou': 1.0, 'n_skipped': 0.0}
    """

    def __init__(
        self,
        num_slots: int | None = None,
        *,
        unscorable: Literal["skip", "one"] = "skip",
        prefix: str = "",
        **kwargs: Any,
    ) -> None:
        super().__init__(num_scores=len(_NAMES), **kwargs)
        self.num_slots, self.prefix = num_slots, prefix
        self.unscorable = check_unscorable(unscorable)

    def update(self, pred: Tensor, target: Tensor) -> None:
        """Add a batch of predicted and true label maps, each `(B, ...)`; `labels_from_masks` converts soft masks."""
        table = contingency_table(pred, target, num_slots=self.num_slots)
        fg_ari, ari = ari_from_table(table, ignore_background=True), ari_from_table(table, ignore_background=False)
        if self.unscorable == "one":
            fg_ari, ari = fg_ari.nan_to_num(nan=1.0), ari.nan_to_num(nan=1.0)
        self.add(torch.stack([fg_ari, ari, best_overlap_from_table(table), matched_iou_from_table(table)], dim=1))

    def compute(self) -> dict[str, Tensor]:
        """Compute the means over all images so far.

        Returns:
            `fg_ari`, `ari`, `mbo_i`, `miou` (float64; NaN if no image has the score) and `n_skipped`, the number of
            images excluded from at least one of them (int64).
        """
        means = self.total / self.count
        scores = {f"{self.prefix}{name}": mean for name, mean in zip(_NAMES, means.unbind(), strict=True)}
        return scores if self.prefix else {**scores, "n_skipped": self.n_skipped}
