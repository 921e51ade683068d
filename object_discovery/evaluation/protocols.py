"""Evaluation protocols: the conventions under which published scores are computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from object_discovery.models.scores import MeanScore, SplitScores


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
        Protocol("slot-attention", "the first 320 test scenes, at the model's resolution", num_scenes=320),
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
    """Scores of a test split by a protocol.

    Args:
        protocol: The protocol.
        own: Names of scores that are specific to the model.

    Example:
        >>> "clevrtex_miou" in ProtocolScores(PROTOCOLS["clevrtex"]).means
        True
    """

    def __init__(self, protocol: Protocol, own: Sequence[str] = ()) -> None:
        super().__init__(own)
        self.protocol = protocol
        self.segmentation = SegmentationScores(unscorable=protocol.unscorable)
        if protocol.clevrtex:
            self.means.update({"clevrtex_miou": MeanScore(skip_nan=True), "mse_sum": MeanScore()})
        if protocol.mask_size is not None:
            self.sets["attention"] = AttentionScores(unscorable=protocol.unscorable)
            for prefix in ("", "attention_"):
                self.sets.update({f"{prefix}mbo_c": MeanBestOverlap(), f"{prefix}corloc": CorLoc()})

    def update(
        self,
        found: Discovery,
        images: Tensor,
        masks: Tensor | None,
        own: Mapping[str, Tensor] | None = None,
        classes: Tensor | None = None,
    ) -> None:
        """Add a batch, see `SplitScores.update`; with a `mask_size` the label maps must have that size."""
        if self.protocol.mask_size is not None:
            super().update(found, images, None, own)
            if masks is not None:
                self._add_sized("segmentation", "", found.masks, masks, classes)
                if found.attention is not None:
                    self._add_sized("attention", "attention_", found.attention, masks, classes)
            return
        super().update(found, images, masks, own)
        if not self.protocol.clevrtex:
            return
        if found.image is not None:
            self._add("mse_sum", reconstruction_error(found.image, images, reduction="sum"))
        if masks is not None:
            self._add("clevrtex_miou", clevrtex_miou(found.labels, masks, num_slots=found.masks.shape[1]))

    def compute(self) -> dict[str, Tensor]:
        """Compute the means over all images of all processes; the segmentation scores come first."""
        scores = super().compute()
        first = [f"{prefix}{name}" for prefix in ("", "attention_") for name in _SEGMENTATION]
        return {**{name: scores[name] for name in first if name in scores}, **scores}

    def _add_sized(self, name: str, prefix: str, soft: Tensor, masks: Tensor, classes: Tensor | None) -> None:
        """Score soft masks `(B, K, h, w)` at the size of the label maps `(B, H, W)`."""
        labels = labels_from_masks(resize_masks(soft, masks.shape[-1]))
        scored = [(self.segmentation if name == "segmentation" else self.sets[name], masks)]
        scored += [(self.sets[f"{prefix}corloc"], masks)]
        scored += [] if classes is None else [(self.sets[f"{prefix}mbo_c"], classes)]
        for metric, target in scored:
            cast(Any, metric).num_slots = soft.shape[1]
            cast(Metric, metric).update(labels, target)

    def _add(self, name: str, scores: Tensor) -> None:
        cast(MeanScore, self.means[name]).update(scores)
