"""Decomposition of scenes into objects and a background, the output of `GNM.decompose` and `GNM.sample`."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from object_discovery.discovery import Discovery
from object_discovery.models.gnm.local_latents import ObjectLatents
from object_discovery.models.gnm.renderer import ObjectImages, composite, object_masks

_MIN_MASK = 1e-6


class SceneDecomposition(NamedTuple):
    """B scenes in K slots: K - 1 objects, in descending order of visible area, and the background."""

    discovery: Discovery
    """Slots, masks, image and slot images; the last slot is the background.

    A slot is the object's z_what, or z_bg, padded with zeros to the larger of both sizes. Where there are more objects
    than slots, the others are part of the background.
    """
    boxes: Tensor
    """Bounding boxes of the objects, `(B, K - 1, 4)`: x0, y0, x1, y1 in pixels, clipped to the image."""
    presence: Tensor
    """z_pres of the objects, `(B, K - 1)`, in [0, 1]."""
    depth: Tensor
    """z_depth of the objects, `(B, K - 1)`; smaller values occlude larger ones."""
    counts: Tensor
    """Number of present objects in all cells, `(B,)`, int64."""
    latent: Tensor | None = None
    """The global latent z_g `(B, L, D)`, where it was sampled."""

    @property
    def image(self) -> Tensor:
        """The rendered image, `(B, 3, H, W)`."""
        assert self.discovery.image is not None
        return self.discovery.image


def build_decomposition(
    objects: ObjectLatents,
    boxes: Tensor,
    object_images: ObjectImages,
    background: Tensor,
    background_latent: Tensor,
    num_slots: int,
    latent: Tensor | None = None,
) -> SceneDecomposition:
    """Select the most visible objects and compute their masks, colours and boxes.

    Args:
        objects: Latents of N objects.
        boxes: Their boxes, `(B, N, 4)`, see `where_to_boxes`.
        object_images: Their transformed glimpses.
        background: Decoded background, `(B, 3, H, W)`.
        background_latent: z_bg, `(B, D')`.
        num_slots: K, from 1 to N + 1.
        latent: z_g, if it was sampled.
    """
    image = composite(object_images, background).image
    masks = object_masks(object_images)
    selected = masks.sum((2, 3)).topk(num_slots - 1, dim=1).indices
    rows = torch.arange(len(selected), device=selected.device)[:, None]
    masks = masks[rows, selected]
    rgb = object_images.rgb[rows, selected].transpose(2, 3)
    premultiplied = (rgb * object_images.depth_weights[rows, selected][:, :, None]).float()
    rgb_masks = masks[:, :, None]
    colours = torch.where(rgb_masks > _MIN_MASK, premultiplied / rgb_masks.clamp_min(_MIN_MASK), background[:, None])
    background_mask = (1 - masks.sum(1, keepdim=True)).clamp_min(0)
    background_colours = (image - (colours * rgb_masks).sum(1)) / background_mask.clamp_min(_MIN_MASK)
    background_colours = torch.where(background_mask > _MIN_MASK, background_colours.clamp(0, 1), background)
    discovery = Discovery(
        _pad_slots(objects.what[rows, selected], background_latent[:, None]),
        torch.cat([masks, background_mask], 1),
        image,
        torch.cat([colours, background_colours[:, None]], 1),
    )
    return SceneDecomposition(
        discovery,
        box_corners(boxes[rows, selected], image.shape[-1]),
        objects.presence[rows, selected],
        objects.depth[rows, selected, 0],
        (objects.presence > 0.5).sum(1),
        latent,
    )


def _pad_slots(what: Tensor, background: Tensor) -> Tensor:
    """Concatenate z_what `(B, K - 1, D)` and z_bg `(B, 1, D')`, both padded with zeros to the larger size."""
    size = max(what.shape[-1], background.shape[-1])
    return torch.cat([F.pad(latent, (0, size - latent.shape[-1])) for latent in (what, background)], 1)


def count_objects_per_map(masks: Tensor) -> Tensor:
    """Count the objects of label maps `(B, H, W)`, where 0 is the background and 255 is ignored; `(B,)`.

    Example:
        >>> count_objects_per_map(torch.tensor([[[0, 3], [255, 1]], [[0, 0], [0, 0]]])).tolist()
        [2, 0]
    """
    is_used = torch.zeros(len(masks), 256, dtype=torch.bool, device=masks.device)
    is_used.scatter_(1, masks.flatten(1).long(), True)
    return is_used[:, 1:255].sum(1)


def box_corners(boxes: Tensor, size: int) -> Tensor:
    """Convert boxes `(..., 4)` of `where_to_boxes` into corners x0, y0, x1, y1 in pixels, clipped to the image.

    Example:
        >>> box_corners(torch.tensor([0.5, 0.25, 0.0, -1.0]), size=64).tolist()
        [16.0, 0.0, 48.0, 8.0]
    """
    centre, half_size = (boxes[..., 2:] + 1) / 2, boxes[..., :2] / 2
    return (torch.cat([centre - half_size, centre + half_size], -1) * size).clamp(0, size)
