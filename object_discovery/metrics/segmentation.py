"""The four segmentation scores that belong together, from one count of the pixels."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torchmetrics import MetricCollection

from object_discovery.metrics.ari import ari_of_table, check_unscorable
from object_discovery.metrics.contingency import contingency_table
from object_discovery.metrics.mean import ImageMean
from object_discovery.metrics.overlap import best_overlap_of_table, matched_iou_of_table

_NAMES = ("fg_ari", "ari", "mbo_i", "miou")


class SegmentationScores(ImageMean):
    """FG-ARI, ARI, mBO and mIoU of the same images; each alone misleads.

    `update` counts the pixels once, reads nothing back from the device, and keeps sums only. Images without a true
    object are left out of the scores of objects.

    Args:
        num_slots: Number of predicted labels. None: found for each batch, which waits for the device.
        unscorable: `skip`, or `one` to count images with nothing to score as 1 in `fg_ari` and `ari`; see `ARI`.
        kwargs: Arguments of `torchmetrics.Metric`.

    Raises:
        ValueError: If `unscorable` is neither.

    Example:
        >>> scores = SegmentationScores(num_slots=3)
        >>> scores.update(torch.tensor([[0, 0, 1, 2]]), torch.tensor([[0, 0, 1, 2]]))
        >>> {name: float(score) for name, score in scores.compute().items()}
        {'fg_ari': 1.0, 'ari': 1.0, 'mbo_i': 1.0, 'miou': 1.0, 'n_skipped': 0.0}
    """

    def __init__(
        self, num_slots: int | None = None, *, unscorable: Literal["skip", "one"] = "skip", **kwargs: Any
    ) -> None:
        super().__init__(num_scores=len(_NAMES), **kwargs)
        self.num_slots = num_slots
        self.unscorable = check_unscorable(unscorable)

    def update(self, pred: Tensor, target: Tensor) -> None:
        """Add a batch of label maps, each `(B, ...)`; `labels_from_masks` makes them from soft masks."""
        table = contingency_table(pred, target, num_slots=self.num_slots)
        fg_ari, ari = ari_of_table(table, ignore_background=True), ari_of_table(table, ignore_background=False)
        if self.unscorable == "one":
            fg_ari, ari = fg_ari.nan_to_num(nan=1.0), ari.nan_to_num(nan=1.0)
        self.add(torch.stack([fg_ari, ari, best_overlap_of_table(table), matched_iou_of_table(table)], dim=1))

    def compute(self) -> dict[str, Tensor]:
        """Average over the images seen so far.

        Returns:
            `fg_ari`, `ari`, `mbo_i`, `miou` (float64; NaN if no image could be scored) and `n_skipped`, the number of
            images left out of at least one of them (int64).
        """
        means = self.total / self.count
        return {**dict(zip(_NAMES, means.unbind(), strict=True)), "n_skipped": self.n_skipped}


def segmentation_metrics(
    num_slots: int | None = None, *, prefix: str | None = None, unscorable: Literal["skip", "one"] = "skip"
) -> MetricCollection:
    """Build the collection that validation logs.

    Log it with `self.log_dict(metrics.compute())` and `metrics.reset()` at the end of an epoch.

    Args:
        num_slots: Number of predicted labels. None: found for each batch, which waits for the device.
        prefix: Put before each key, such as `val/`.
        unscorable: As in `SegmentationScores`.

    Returns:
        A collection that computes `fg_ari`, `ari`, `mbo_i`, `miou` and `n_skipped`.

    Raises:
        ValueError: If `unscorable` is unknown.

    Example:
        >>> metrics = segmentation_metrics(num_slots=2, prefix="val/")
        >>> metrics.update(torch.tensor([[0, 0, 1, 1]]), torch.tensor([[0, 0, 1, 1]]))
        >>> sorted(metrics.compute())
        ['val/ari', 'val/fg_ari', 'val/mbo_i', 'val/miou', 'val/n_skipped']
    """
    scores = SegmentationScores(num_slots, unscorable=unscorable)
    return MetricCollection({"segmentation": scores}, prefix=prefix)
