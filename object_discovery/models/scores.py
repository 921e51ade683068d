"""Metrics of a validation or test split, accumulated batch by batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias, cast

from torch import Tensor, nn
from torchmetrics import Metric

from object_discovery.discovery import Discovery
from object_discovery.metrics import (
    ImageMean,
    SegmentationScores,
    active_slots,
    duplicated_slots,
    labels_from_masks,
    mask_entropy,
    reconstruction_error,
)

MetricInputs: TypeAlias = Mapping[str, Any]
"""Arguments of `Metric.update` by the name of the metric: one tensor, or a tuple of several."""


SEGMENTATIONS = {"segmentation": "", "decoder": "decoder_", "posterior": "posterior_", "cluster": "cluster_"}
"""Prefix of the scores of each kind of masks, by the name of its metric: those that the model has chosen, those of its
decoder, the posterior masks, and the clusters by which the slots are initialised."""


class MeanScore(ImageMean):
    """Mean over images of a score that is computed elsewhere.

    Args:
        skip_nan: Leave out images whose score is NaN. By default they make the mean NaN, so that they are noticed.
    """

    def __init__(self, *, skip_nan: bool = False) -> None:
        super().__init__()
        self.skip_nan = skip_nan

    def update(self, scores: Tensor) -> None:
        """Add the scores of a batch, `(B,)`."""
        self.add(scores, skip_nan=self.skip_nan)


def predicted_masks(discovery: Discovery) -> dict[str, Tensor]:
    """Return the soft masks that are scored, by the name of their metric, see `SEGMENTATIONS`."""
    masks = (discovery.masks, discovery.decoder_masks, discovery.posterior_masks, discovery.cluster_masks)
    return {name: value for name, value in zip(SEGMENTATIONS, masks, strict=True) if value is not None}


class SplitScores(nn.Module):
    """All metrics of a split, as submodules: they are moved to the device and synchronised across processes.

    Args:
        extra: Metrics besides those of every model, by name, see `ObjectDiscoveryModel.extra_metrics`.

    Example:
        >>> sorted(SplitScores({"loss": MeanScore()}).metrics)[:4]
        ['active_slots', 'cluster', 'decoder', 'duplicated_slots']
    """

    def __init__(self, extra: Mapping[str, Metric] | None = None) -> None:
        super().__init__()
        names = ("mse", "active_slots", "duplicated_slots", "mask_entropy")
        means = {name: MeanScore() for name in names}
        segmentation = {name: SegmentationScores(prefix=prefix) for name, prefix in SEGMENTATIONS.items()}
        self.metrics = nn.ModuleDict({**segmentation, **means, **(extra or {})})

    def update(
        self,
        discovery: Discovery,
        images: Tensor,
        masks: Tensor | None,
        extra: MetricInputs | None = None,
        classes: Tensor | None = None,
    ) -> None:
        """Add a batch.

        Args:
            discovery: The model's output.
            images: `(B, 3, H, W)`.
            masks: True label maps `(B, H, W)`, if known.
            extra: Arguments for the extra metrics, by name; metrics without arguments are not updated.
            classes: True label maps of classes `(B, H, W)`, for protocols that score them.
        """
        inputs: dict[str, Any] = {
            **(extra or {}),
            "active_slots": active_slots(discovery.masks),
            "duplicated_slots": duplicated_slots(discovery.slots),
            "mask_entropy": mask_entropy(discovery.masks),
        }
        if discovery.image is not None:
            inputs["mse"] = reconstruction_error(discovery.image, images)
        if masks is not None:
            for name, soft_masks in predicted_masks(discovery).items():
                cast(SegmentationScores, self.metrics[name]).num_slots = soft_masks.shape[1]
                inputs[name] = (labels_from_masks(soft_masks), masks)
        self.update_metrics(inputs)

    def update_metrics(self, inputs: MetricInputs) -> None:
        """Update metrics by name with their arguments."""
        for name, arguments in inputs.items():
            arguments = arguments if isinstance(arguments, tuple) else (arguments,)
            cast(Metric, self.metrics[name]).update(*arguments)

    def updated(self) -> dict[str, Metric]:
        """Return the metrics that have been updated since the last reset, by name."""
        metrics = {name: cast(Metric, metric) for name, metric in self.metrics.items()}
        return {name: metric for name, metric in metrics.items() if metric.update_called}

    def compute(self) -> dict[str, Tensor]:
        """Compute every updated metric over all images of all processes."""
        scores: dict[str, Tensor] = {}
        for name, metric in self.updated().items():
            value = metric.compute()
            scores.update(value if isinstance(value, dict) else {name: value})
        return {name: value.float() for name, value in scores.items()}

    def reset(self) -> None:
        """Reset every metric."""
        for metric in self.metrics.values():
            cast(Metric, metric).reset()
