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
from object_discovery.models.scores import SEGMENTATIONS, MeanScore, MetricInputs, SplitScores, predicted_masks


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
    decoder_masks: bool = False
    """Score the masks of a decoder of RGB and alpha, as published, whatever the model's `mask_source` is."""
    fit: Literal["crop", "squash"] | None = None
    """Centre crop or squash images that are not square. None: as in the settings of the data."""


PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Protocol("default", "all scenes of the test split"),
        Protocol(
            "slot-attention",
            "at most 320 test scenes, at the model's resolution; decoder masks",
            num_scenes=320,
            decoder_masks=True,
        ),
        Protocol(
            "clevrtex",
            "all test scenes, scored as by the ClevrTex benchmark; decoder masks",
            clevrtex=True,
            decoder_masks=True,
        ),
        Protocol(
            "dinosaur-320",
            "centre crops, masks at 320 pixels; images without objects score 1 in FG-ARI, as in DINOSAUR's code",
            unscorable="one",
            mask_size=320,
            decoder_masks=True,
            fit="crop",
        ),
        Protocol(
            "covloss-coco",
            "images squashed to squares, masks at 128 pixels, as with the covariance loss (Stange et al. 2023)",
            mask_size=128,
            decoder_masks=True,
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
        for name, prefix in SEGMENTATIONS.items():
            self.metrics[name] = SegmentationScores(prefix=prefix, unscorable=protocol.unscorable)
        if protocol.clevrtex:
            self.metrics.update({"clevrtex_miou": MeanScore(skip_nan=True), "mse_sum": MeanScore()})
        if protocol.mask_size is not None:
            self.metrics["attention_segmentation"] = SegmentationScores(
                prefix="attention_", unscorable=protocol.unscorable
            )
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
        if self.protocol.decoder_masks and discovery.decoder_masks is not None:
            discovery = discovery._replace(masks=discovery.decoder_masks)
        if self.protocol.mask_size is not None:
            super().update(discovery, images, None, extra)
            if masks is not None:
                for name, soft_masks in predicted_masks(discovery).items():
                    self._update_resized({name: masks}, soft_masks)
                self._update_resized({"corloc": masks, "mbo_c": classes}, discovery.masks)
                if discovery.attention is not None:
                    names = ("attention_segmentation", "attention_corloc", "attention_mbo_c")
                    self._update_resized(dict(zip(names, (masks, masks, classes), strict=True)), discovery.attention)
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
        first = [f"{prefix}{name}" for prefix in (*SEGMENTATIONS.values(), "attention_") for name in _SEGMENTATION]
        return {**{name: scores[name] for name in first if name in scores}, **scores}

    def _update_resized(self, targets: Mapping[str, Tensor | None], soft_masks: Tensor) -> None:
        """Score soft masks `(B, K, h, w)` by label maps `(B, H, W)` at their size, by the name of the metric."""
        for name, target in targets.items():
            if target is not None:
                cast(Any, self.metrics[name]).num_slots = soft_masks.shape[1]
                labels = labels_from_masks(resize_masks(soft_masks, target.shape[-1]))
                self.update_metrics({name: (labels, target)})
