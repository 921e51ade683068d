"""Trivial baselines: a grid of blocks, k-means, and one slot for the whole image."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from object_discovery.discovery import Batch, Discovery
from object_discovery.errors import UserError
from object_discovery.layers.frozen_encoder import FrozenEncoder
from object_discovery.layers.kmeans import kmeans
from object_discovery.models.base import ObjectDiscoveryModel
from object_discovery.params import ModelParams

BaselineName = Literal["grid", "kmeans", "one"]
"""Name of a baseline."""
BASELINES: tuple[BaselineName, ...] = get_args(BaselineName)
"""Every baseline, in the order of the report."""
_MAX_SIDE = 56  # k-means of pixels runs on images of at most this height and width


def block_masks(num_blocks: int, height: int, width: int) -> Tensor:
    """Divide an image into a regular grid of blocks.

    The grid has round(sqrt(K)) rows. If K is not a multiple of that, the lower rows have one block more than the upper
    ones: 7 blocks are rows of 2, 2 and 3.

    Args:
        num_blocks: Number of blocks, K.
        height: Height of the image, H.
        width: Width of the image, W.

    Returns:
        Masks, `(K, H, W)`, float32, 0 or 1.

    Example:
        >>> block_masks(4, 2, 4).argmax(0).tolist()
        [[0, 0, 1, 1], [2, 2, 3, 3]]
    """
    rows = max(1, round(num_blocks**0.5))
    ends = torch.tensor([num_blocks * (row + 1) // rows for row in range(rows)])
    starts = torch.cat([torch.zeros(1, dtype=torch.int64), ends[:-1]])
    row = torch.arange(height) * rows // height
    column = torch.arange(width) * (ends - starts)[row][:, None] // width
    return F.one_hot(starts[row][:, None] + column, num_blocks).movedim(-1, 0).float()


def pixel_features(images: Tensor, side: int) -> Tensor:
    """Compute the features of pixels for k-means: colour and position, at a reduced resolution.

    Args:
        images: Images, `(B, 3, H, W)`.
        side: Height and width to which the images are resized, h.

    Returns:
        Features, `(B, h * h, 5)`: three colours, then row and column. The colours have a total variance of 1, and so
        have the positions.

    Example:
        >>> pixel_features(torch.rand(2, 3, 8, 8), 4).shape
        torch.Size([2, 16, 5])
    """
    small = F.interpolate(images.float(), (side, side), mode="bilinear", antialias=True, align_corners=False)
    colours = small.flatten(2).transpose(1, 2)
    axis = torch.linspace(-1, 1, side, device=images.device)
    positions = torch.cartesian_prod(axis, axis).expand(len(images), -1, -1)
    return torch.cat([_standardize(colours), _standardize(positions)], dim=2)


def _standardize(values: Tensor) -> Tensor:
    """Centre features `(B, N, F)` and scale them to a variance of 1, summed over F."""
    centred = values - values.mean(1, keepdim=True)
    return centred / centred.square().sum(2).mean(1).sqrt().clamp_min(1e-6)[:, None, None]


class Baseline(ObjectDiscoveryModel[ModelParams]):
    """Segmentation baseline without parameters, with the interface of a model.

    Args:
        baseline: `grid`, blocks of equal size; `kmeans`, clusters of the encoder's features or, without an encoder, of
            the colours and positions of pixels; `one`, the whole image in one slot.
        num_slots: Number of segments, K; ignored by `one`.
        resolution: Height and width of the images in pixels.
        encoder: Frozen encoder whose features are clustered. None: k-means of pixels.

    Raises:
        ValueError: If `baseline` is unknown, or `num_slots` exceeds the number of points of k-means.

    Example:
        >>> Baseline("grid", num_slots=4, resolution=32)(torch.rand(1, 3, 32, 32)).labels[0, ::16, ::16].tolist()
        [[0, 1], [2, 3]]
    """

    model_type: ClassVar[str] = "baseline"
    params_class: ClassVar[type[ModelParams]] = ModelParams

    def __init__(
        self, baseline: BaselineName, num_slots: int, resolution: int, encoder: FrozenEncoder | None = None
    ) -> None:
        if baseline not in BASELINES:
            raise ValueError(f"Expected argument `baseline` to be one of {', '.join(BASELINES)}, but got {baseline!r}")
        super().__init__(num_slots=1 if baseline == "one" else num_slots, resolution=resolution)
        self.baseline: BaselineName = baseline
        self.encoder = cast(nn.Module | None, encoder)
        height, width = encoder.grid if encoder else [min(_MAX_SIDE, resolution)] * 2
        if baseline == "kmeans" and num_slots > height * width:
            raise UserError(
                f"Expected argument `num_slots` to be at most {height * width} for kmeans, but got {num_slots}"
            )

    def forward(self, images: Tensor, **options: Any) -> Discovery:
        """Segment images `(B, 3, H, W)`, floats in [0, 1]."""
        return self._segment(images, None)

    def score_batch(self, batch: Batch) -> tuple[Discovery, dict[str, Any]]:
        """Segment the images of a batch, by its cached `features` if it has them; there are no further metrics."""
        return self._segment(batch["image"], batch.get("features")), {}

    def networks(self) -> Iterator[nn.Module]:
        """Return an iterator over the networks that can be compiled: none."""
        return iter(())

    def _segment(self, images: Tensor, features: Tensor | None) -> Discovery:
        self.check_images(images)
        if self.baseline == "kmeans":
            return self._cluster(images, features)
        masks = block_masks(self.params.num_slots, *images.shape[-2:]).to(images.device)
        slots = F.adaptive_avg_pool2d(masks, 8).flatten(1)  # the position of each block
        return Discovery(slots.expand(len(images), -1, -1), masks.expand(len(images), -1, -1, -1))

    def _cluster(self, images: Tensor, features: Tensor | None) -> Discovery:
        with torch.autocast(images.device.type, enabled=False):
            if self.encoder is None:
                side = min(_MAX_SIDE, *images.shape[-2:])
                grid, features = (side, side), pixel_features(images, side)
            else:
                encoder = cast(FrozenEncoder, self.encoder)
                grid, features = encoder.grid, encoder(images.float()) if features is None else features
            labels, centres = kmeans(features, self.params.num_slots)
        masks = F.one_hot(labels, self.params.num_slots).transpose(1, 2).float().reshape(len(images), -1, *grid)
        return Discovery(centres, F.interpolate(masks, images.shape[-2:], mode="bilinear", align_corners=False))
