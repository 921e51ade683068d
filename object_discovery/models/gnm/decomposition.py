"""A scene taken apart: what `GNM.scene` and `GNM.sample` return."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from object_discovery.discovery import Discovery
from object_discovery.models.gnm.local_latents import Objects
from object_discovery.models.gnm.renderer import Layers, blend, visible_shares

_LEAST_SHARE = 1e-6


class Scene(NamedTuple):
    """B scenes of objects before a background, in K slots: K - 1 objects, those that show most first."""

    discovery: Discovery
    """Slots, masks, image and slot images; the last slot is the background.

    A slot is the object's `what`, or the background's latent, filled up with zeros to the same size. Where there are
    more objects than slots, the others are part of the background.
    """
    boxes: Tensor
    """The frame of each object, `(B, K - 1, 4)`: x0, y0, x1, y1 in pixels, cut off at the border."""
    presence: Tensor
    """Whether it is there, `(B, K - 1)`, in [0, 1]."""
    depth: Tensor
    """How far away it is, `(B, K - 1)`; the less, the nearer."""
    counts: Tensor
    """How many objects are there in all, `(B,)`, int64."""
    latent: Tensor | None = None
    """The global latent `(B, L, D)`, where it was drawn."""

    @property
    def image(self) -> Tensor:
        """The image of the scene, `(B, 3, H, W)`."""
        assert self.discovery.image is not None
        return self.discovery.image


def decompose(
    objects: Objects,
    boxes: Tensor,
    layers: Layers,
    background: Tensor,
    background_latent: Tensor,
    num_slots: int,
    latent: Tensor | None = None,
) -> Scene:
    """Make a scene of its latents and what they look like.

    Args:
        objects: The latents of N objects.
        boxes: Where they are, `(B, N, 4)`, see `place`.
        layers: What they look like there.
        background: What the background looks like, `(B, 3, H, W)`.
        background_latent: Its latent, `(B, D')`.
        num_slots: K, from 1 to N + 1.
        latent: The global latent, if it was drawn.
    """
    image = blend(layers, background).image
    shares = visible_shares(layers)
    chosen = shares.sum((2, 3)).topk(num_slots - 1, dim=1).indices
    rows = torch.arange(len(chosen), device=chosen.device)[:, None]
    shares = shares[rows, chosen]
    painted = (layers.colours[rows, chosen].transpose(2, 3) * layers.nearness[rows, chosen][:, :, None]).float()
    shown = shares[:, :, None]
    colours = torch.where(shown > _LEAST_SHARE, painted / shown.clamp_min(_LEAST_SHARE), background[:, None])
    rest = (1 - shares.sum(1, keepdim=True)).clamp_min(0)
    left = (image - (colours * shown).sum(1)) / rest.clamp_min(_LEAST_SHARE)
    left = torch.where(rest > _LEAST_SHARE, left.clamp(0, 1), background)
    what, of_background = objects.what[rows, chosen], background_latent[:, None]
    size = max(what.shape[-1], of_background.shape[-1])
    slots = torch.cat([F.pad(part, (0, size - part.shape[-1])) for part in (what, of_background)], 1)
    discovery = Discovery(slots, torch.cat([shares, rest], 1), image, torch.cat([colours, left[:, None]], 1))
    return Scene(
        discovery,
        corners(boxes[rows, chosen], image.shape[-1]),
        objects.presence[rows, chosen],
        objects.depth[rows, chosen, 0],
        (objects.presence > 0.5).sum(1),
        latent,
    )


def count_objects_per_map(masks: Tensor) -> Tensor:
    """Count the objects of label maps `(B, H, W)`, of which 0 is the background and 255 is ignored, `(B,)`.

    Example:
        >>> count_objects_per_map(torch.tensor([[[0, 3], [255, 1]], [[0, 0], [0, 0]]])).tolist()
        [2, 0]
    """
    there = torch.zeros(len(masks), 256, dtype=torch.bool, device=masks.device)
    there.scatter_(1, masks.flatten(1).long(), True)
    return there[:, 1:255].sum(1)


def corners(boxes: Tensor, size: int) -> Tensor:
    """Turn boxes as `place` gives them, `(..., 4)`, into x0, y0, x1, y1 in pixels, cut off at the border.

    Example:
        >>> corners(torch.tensor([0.5, 0.25, 0.0, -1.0]), size=64).tolist()
        [16.0, 0.0, 48.0, 8.0]
    """
    centre, half = (boxes[..., 2:] + 1) / 2, boxes[..., :2] / 2
    return (torch.cat([centre - half, centre + half], -1) * size).clamp(0, size)
