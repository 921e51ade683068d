"""Named ways to score a model, so that numbers can be compared with published ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, cast

from torch import Tensor

from object_discovery.discovery import Discovery
from object_discovery.metrics import SegmentationScores, clevrtex_miou, reconstruction_error
from object_discovery.models.scores import MeanScore, SplitScores


@dataclass(frozen=True)
class Protocol:
    """Which images are scored, and how."""

    name: str
    """Its name on the command line."""
    description: str
    """A line about it."""
    split: Literal["train", "val", "test"] = "test"
    """The split, unless the command line names another."""
    num_scenes: int | None = None
    """Score the first scenes of the split only. None: all."""
    unscorable: Literal["skip", "one"] = "skip"
    """What images without objects count as: left out and counted in `n_skipped`, or 1."""
    clevrtex: bool = False
    """Add ClevrTex's mIoU, and the squared error as a sum over the image."""


PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Protocol("default", "every scene of the test split"),
        Protocol("slot-attention", "the first 320 test scenes, at the model's resolution", num_scenes=320),
        Protocol("clevrtex", "every test scene, scored as the ClevrTex benchmark does", clevrtex=True),
    )
}
"""Every protocol by its name."""


class ProtocolScores(SplitScores):
    """The scores of a test, with the conventions of a protocol.

    Args:
        protocol: The protocol.
        own: Names of scores that only this model has.

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

    def update(
        self, found: Discovery, images: Tensor, masks: Tensor | None, own: Mapping[str, Tensor] | None = None
    ) -> None:
        """Add a batch, see `SplitScores.update`."""
        super().update(found, images, masks, own)
        if not self.protocol.clevrtex:
            return
        if found.image is not None:
            self._add("mse_sum", reconstruction_error(found.image, images, reduction="sum"))
        if masks is not None:
            self._add("clevrtex_miou", clevrtex_miou(found.labels, masks, num_slots=found.masks.shape[1]))

    def _add(self, name: str, scores: Tensor) -> None:
        cast(MeanScore, self.means[name]).update(scores)
