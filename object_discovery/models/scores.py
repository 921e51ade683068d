"""The scores that validation and test report for every model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

from torch import Tensor, nn
from torchmetrics import Metric

from object_discovery.discovery import Discovery
from object_discovery.metrics import (
    ImageMean,
    SegmentationScores,
    active_slots,
    duplicated_slots,
    mask_entropy,
    reconstruction_error,
)


class MeanScore(ImageMean):
    """The mean over images of a score computed elsewhere.

    Args:
        skip_nan: Leave images out whose score is NaN. By default they make the mean NaN, so that they are seen.
    """

    def __init__(self, *, skip_nan: bool = False) -> None:
        super().__init__()
        self.skip_nan = skip_nan

    def update(self, scores: Tensor) -> None:
        """Add the scores of a batch, `(B,)`."""
        self.add(scores, skip_nan=self.skip_nan)


class SplitScores(nn.Module):
    """Everything that is measured on a split, added up batch by batch on the device.

    Args:
        own: Names of scores that only this model has.
    """

    def __init__(self, own: Sequence[str] = ()) -> None:
        super().__init__()
        self.segmentation = SegmentationScores()
        names = ("mse", "active_slots", "duplicated_slots", "mask_entropy", *own)
        self.means = nn.ModuleDict({name: MeanScore() for name in names})
        self.sets = nn.ModuleDict()  # metrics of all images together, where a model has some

    def update(
        self,
        found: Discovery,
        images: Tensor,
        masks: Tensor | None,
        own: Mapping[str, Tensor] | None = None,
        classes: Tensor | None = None,
    ) -> None:
        """Add a batch.

        Args:
            found: What was found.
            images: `(B, 3, H, W)`.
            masks: Label maps `(B, H, W)`, if there are any.
            own: The scores that only this model has, `(B,)` each.
            classes: Label maps of classes `(B, H, W)`, for protocols that score them.
        """
        values = {
            **(own or {}),
            "active_slots": active_slots(found.masks),
            "duplicated_slots": duplicated_slots(found.slots),
            "mask_entropy": mask_entropy(found.masks),
        }
        if found.image is not None:
            values["mse"] = reconstruction_error(found.image, images)
        for name, value in values.items():
            cast(MeanScore, self.means[name]).update(value)
        if masks is not None:
            self.segmentation.num_slots = found.masks.shape[1]
            self.segmentation.update(found.labels, masks)

    def metrics(self) -> dict[str, Metric]:
        """Return the metrics that have seen images."""
        every = {"segmentation": self.segmentation, **cast(dict[str, Metric], {**self.means, **self.sets})}
        return {name: metric for name, metric in every.items() if metric.update_called}

    def compute(self) -> dict[str, Tensor]:
        """Average over all images, of all processes."""
        scores: dict[str, Tensor] = {}
        for name, metric in self.metrics().items():
            value = metric.compute()
            scores.update(value if isinstance(value, dict) else {name: value})
        return {name: value.float() for name, value in scores.items()}

    def reset(self) -> None:
        """Start again at nothing."""
        for metric in (self.segmentation, *self.means.values(), *self.sets.values()):
            cast(Metric, metric).reset()
