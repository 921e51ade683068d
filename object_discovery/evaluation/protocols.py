"""Evaluation protocols: the conventions under which published scores are computed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric

from object_discovery.discovery import Discovery
from object_discovery.metrics import (
    CorLoc,
    MeanBestOverlap,
    SegmentationScores,
    clevrtex_miou,
    labels_from_masks,
    reconstruction_error,
)
from object_discovery.models.scores import MeanScore, MetricInputs, SplitScores


@dataclass(frozen=True)
class Protocol:
    """Evaluation protocol: which images are scored, and how."""

    name: str
    """Name on the command line."""
    description: str
    """Description in one line."""
    split: Literal["train", "val", "test"] = "test"
    """Split to score, unless the command line names another."""
    num_scenes: int | None = None
    """Number of scenes to score, the first of the split. None: all."""
    unscorable: Literal["skip", "one"] = "skip"
    """ARI and FG-ARI of images without pixels to score: excluded and counted in `n_skipped`, or 1."""
    clevrtex: bool = False
    """Add the mIoU of the ClevrTex benchmark, and the squared error summed over each image."""
    mask_size: int | None = None
    """Height and width at which masks are scored: soft masks are resized bilinearly, true label maps by
    `ResizedTargetDataset`; adds mBO-c, CorLoc, and the scores of the attention maps. None: the model's resolution."""
    fit: Literal["crop", "squash"] | None = None
    """Centre crop or squash images that are not square. None: as in the settings of the data."""


PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Protocol("default", "all scenes of the test split"),
        Protocol("slot-attention", "at most 320 test scenes, at the model's resolution", num_scenes=320),
        Protocol("clevrtex", "all test scenes, scored as by the ClevrTex benchmark", clevrtex=True),
        Protocol(
            "dinosaur-320",
            "centre crops, masks at 320 pixels; images without objects score 1 in FG-ARI, as in DINOSAUR's code",
            unscorable="one",
            mask_size=320,
            fit="crop",
        ),
        Protocol(
            "covloss-coco",
            "images squashed to squares, masks at 128 pixels, as with the covariance loss (Stange et al. 2023)",
            mask_size=128,
            fit="squash",
        ),
    )
}
"""All protocols by name."""


def resize_masks(masks: Tensor, size: int) -> Tensor:
    """Resize soft masks bilinearly; the argmax is taken afterwards.

    Args:
        masks: Soft masks, `(B, K, h, w)`.
        size: Height and width of the result.

    Returns:
        Soft masks, `(B, K, size, size)`, float32; not interpolated if they have this size already.

    Example:
        >>> resize_masks(Tensor([[1, 0], [0, 1]]).view(1, 2, 1, 2), 4)[0, 0, 0].tolist()
        [1.0, 0.75, 0.25, 0.0]
    """
    if masks.shape[-2:] == (size, size):
        return masks.float()
    return F.interpolate(masks.float(), (size, size), mode="bilinear", align_corners=False)


_SEGMENTATION = ("fg_ari", "ari", "mbo_i", "mbo_c", "miou", "corloc")


class AttentionScores(SegmentationScores):
    """Segmentation scores of the attention maps of the slots; takes the arguments of `SegmentationScores`."""

    def compute(self) -> dict[str, Tensor]:
        """Compute the means over images, with names that begin with `attention_`."""
        scores = super().compute()
        return {f"attention_{name}": value for name, value in scores.items() if name != "n_skipped"}


class ProtocolScores(SplitScores):
    """Metrics of a test split under a protocol.

    Args:
        protocol: The protocol.
        extra: Further metrics of the model by name, see `ObjectDiscoveryModel.extra_metrics`.

    Example:
        >>> "clevrtex_miou" in ProtocolScores(PROTOCOLS["clevrtex"]).metrics
        True
    """

    def __init__(self, protocol: Protocol, extra: Mapping[str, Metric] | None = None) -> None:
        super().__init__(extra)
        self.protocol = protocol
        self.metrics["segmentation"] = SegmentationScores(unscorable=protocol.unscorable)
        if protocol.clevrtex:
            self.metrics.update({"clevrtex_miou": MeanScore(skip_nan=True), "mse_sum": MeanScore()})
        if protocol.mask_size is not None:
            self.metrics["attention_segmentation"] = AttentionScores(unscorable=protocol.unscorable)
            for prefix in ("", "attention_"):
                self.metrics.update({f"{prefix}mbo_c": MeanBestOverlap(), f"{prefix}corloc": CorLoc()})

    def update(
        self,
        discovery: Discovery,
        images: Tensor,
        masks: Tensor | None,
        extra: MetricInputs | None = None,
        classes: Tensor | None = None,
    ) -> None:
        """Add a batch, see `SplitScores.update`; with a `mask_size` the label maps must have that size."""
        if self.protocol.mask_size is not None:
            super().update(discovery, images, None, extra)
            if masks is not None:
                self._update_resized("", discovery.masks, masks, classes)
                if discovery.attention is not None:
                    self._update_resized("attention_", discovery.attention, masks, classes)
            return
        super().update(discovery, images, masks, extra)
        if not self.protocol.clevrtex:
            return
        if discovery.image is not None:
            self.update_metrics({"mse_sum": reconstruction_error(discovery.image, images, reduction="sum")})
        if masks is not None:
            num_slots = discovery.masks.shape[1]
            self.update_metrics({"clevrtex_miou": clevrtex_miou(discovery.labels, masks, num_slots=num_slots)})

    def compute(self) -> dict[str, Tensor]:
        """Compute every metric that has been updated; the segmentation scores come first."""
        scores = super().compute()
        first = [f"{prefix}{name}" for prefix in ("", "attention_") for name in _SEGMENTATION]
        return {**{name: scores[name] for name in first if name in scores}, **scores}

    def _update_resized(self, prefix: str, soft_masks: Tensor, masks: Tensor, classes: Tensor | None) -> None:
        """Score soft masks `(B, K, h, w)` at the size of the label maps `(B, H, W)`."""
        labels = labels_from_masks(resize_masks(soft_masks, masks.shape[-1]))
        targets = {"segmentation": masks, "corloc": masks, "mbo_c": classes}
        for name, target in targets.items():
            if target is not None:
                cast(Any, self.metrics[f"{prefix}{name}"]).num_slots = soft_masks.shape[1]
                self.update_metrics({f"{prefix}{name}": (labels, target)})
