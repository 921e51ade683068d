"""Renderer: glimpse decoder, spatial transform of the glimpses, and compositing by depth over the background.

Shapes: B images, N objects each, M = B N glimpses, H W pixels of the image, g height and width of a glimpse.
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from object_discovery.layers.spatial_transform import spatial_transform
from object_discovery.models.gnm.blocks import UpBlock
from object_discovery.models.gnm.distributions import straight_through_clamp

_EPS = 1e-15
_CENTRE_LOGIT = 8.0  # alpha logit at the centre of the initial disc
_LOGIT_FALLOFF = 10.0  # decrease of that logit per squared distance; the border is at distance 1
_MAX_LOGIT_CHANGE = 4.0  # bound of the decoder's change of that logit, so that the centre stays opaque
_LAST_LAYER_GAIN = 0.1


class GlimpseDecoder(nn.Module):
    """Decoder of z_what: RGB and alpha of a glimpse.

    Args:
        what_size: Size of z_what, D.
        glimpse_size: g, a power of two.
        disc_init: Initialise glimpses as a disc of uniform colour whose centre stays opaque, so that boxes have to move
            onto the objects. Not published.

    Example:
        >>> GlimpseDecoder(3, glimpse_size=16)(torch.rand(5, 3)).shape
        torch.Size([5, 4, 16, 16])
    """

    def __init__(self, what_size: int, glimpse_size: int, *, disc_init: bool = False) -> None:
        super().__init__()
        num_blocks = int(math.log2(glimpse_size))
        channels = [what_size, *(min(128, 4 * 2**power) for power in reversed(range(num_blocks)))]
        blocks = [
            UpBlock(in_channels, out_channels, 2, 3, activation=index < num_blocks - 1)
            for index, (in_channels, out_channels) in enumerate(itertools.pairwise(channels))
        ]
        self.blocks = nn.Sequential(*blocks)
        self.plain: nn.Linear | None = None
        if disc_init:
            self.plain = nn.Linear(what_size, 3, bias=False)
            last = blocks[-1].convolution
            with torch.no_grad():
                last.weight.mul_(_LAST_LAYER_GAIN)
                assert last.bias is not None
                last.bias.zero_()
            size = 2**num_blocks
            coordinates = (torch.arange(size) + 0.5) * (2 / size) - 1
            disc = torch.zeros(4, size, size)
            disc[3] = _CENTRE_LOGIT - _LOGIT_FALLOFF * (coordinates.square()[:, None] + coordinates.square())
            self.register_buffer("spot", disc, persistent=False)

    def forward(self, what: Tensor) -> Tensor:
        """Decode z_what `(M, D)` into RGB and alpha `(M, 4, g, g)`, in [0, 1]."""
        logits = self.blocks(what[:, :, None, None])
        if self.plain is not None:
            rgb, alpha = logits[:, :3] + self.plain(what)[:, :, None, None], logits[:, 3:]
            # Unbounded, alpha would fall where a stronger colour makes up for it.
            alpha = _MAX_LOGIT_CHANGE * (alpha / _MAX_LOGIT_CHANGE).tanh()
            logits = torch.cat([rgb, alpha], 1) + self.get_buffer("spot")
        return logits.sigmoid()  # type: ignore[no-any-return]


class ObjectImages(NamedTuple):
    """Objects of B images after the spatial transform, on the canvas of the whole image."""

    rgb: Tensor
    """Colours premultiplied by alpha, `(B, N, H, 3, W)`."""
    alpha: Tensor
    """Alpha times z_pres, `(B, N, H, W)`."""
    depth_weights: Tensor
    """Depth-dependent compositing weights, `(B, N, H, W)`; they sum to 1 over the objects, or to 0 in empty pixels."""


def transform_objects(glimpses: Tensor, presence: Tensor, boxes: Tensor, depth: Tensor, size: int) -> ObjectImages:
    """Transform the glimpses of each image into its canvas and compute their compositing weights.

    Args:
        glimpses: RGB and alpha, `(B N, 4, g, g)`.
        presence: z_pres, `(B, N)`, in [0, 1].
        boxes: `(B, N, 4)`, see `where_to_boxes`.
        depth: z_depth, `(B, N, 1)`; smaller values occlude larger ones.
        size: Height and width of the images.
    """
    batch, count = presence.shape
    alpha = glimpses[:, 3:] * presence.reshape(-1, 1, 1, 1).to(glimpses.dtype)
    rgba = torch.cat([glimpses[:, :3] * alpha, alpha], 1)
    images = spatial_transform(rgba, boxes.flatten(0, 1), size).view(batch, count, size, 4, size)
    alpha = images[:, :, :, 3].float()
    weights = alpha * (-depth.float()).sigmoid()[..., None]
    return ObjectImages(images[:, :, :, :3], alpha, weights / (weights.sum(1, keepdim=True) + _EPS))


class Rendering(NamedTuple):
    """Composite of B images."""

    image: Tensor
    """Objects over the background, `(B, 3, H, W)`."""
    foreground: Tensor
    """Contribution of the objects, `(B, 3, H, W)`."""
    alpha: Tensor
    """Total alpha of the objects, `(B, 1, H, W)`, in [0, 1]."""


def composite(objects: ObjectImages, background: Tensor, forced_alpha: float | None = None) -> Rendering:
    """Composite objects by depth over the background.

    Args:
        objects: The transformed objects.
        background: `(B, 3, H, W)`.
        forced_alpha: Total alpha of every pixel, in place of that of the objects. None: that of the objects.
    """
    weights = objects.depth_weights[:, :, :, None].to(objects.rgb.dtype)
    foreground = (objects.rgb * weights).sum(1).transpose(1, 2).float()
    if forced_alpha is None:
        alpha = straight_through_clamp(objects.alpha.sum(1), _EPS, 1 - _EPS)[:, None]
    else:
        alpha = torch.full_like(background[:, :1], forced_alpha)
    return Rendering(foreground + (1 - alpha) * background, foreground, alpha)


def object_masks(objects: ObjectImages) -> Tensor:
    """Compute the mask of the visible part of each object, `(B, N, H, W)`; the rest to 1 is background."""
    visible = objects.alpha * objects.depth_weights
    total_alpha = objects.alpha.sum(1, keepdim=True).clamp(0, 1)
    return total_alpha * visible / visible.sum(1, keepdim=True).clamp_min(_EPS)
