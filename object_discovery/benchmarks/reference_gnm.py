"""The habits of public implementations of GNM in a training step, in our own words, on the weights of our model.

Three warps of each object by grid_sample, a second reconstruction through the global latent in every step, boxes drawn
object by object on the CPU, and each logged number read at once.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from object_discovery.models.gnm.decomposition import corners
from object_discovery.models.gnm.distributions import straight_through_clamp
from object_discovery.models.gnm.local_latents import Objects, place
from object_discovery.models.gnm.model import GNM
from object_discovery.models.gnm.objective import (
    auxiliary_divergences,
    divergences,
    elbo,
    loss,
    negative_log_likelihood,
    weights_at,
)

_EPS = 1e-15


def warp(glimpses: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Put glimpses `(M, C, g, g)` in boxes `(M, 4)` of images by grid_sample: `(M, C, size, size)`."""
    width, height, x, y = boxes.unbind(-1)
    zero = torch.zeros_like(x)
    rows = [torch.stack([1 / width, zero, -x / width], -1), torch.stack([zero, 1 / height, -y / height], -1)]
    grid = F.affine_grid(torch.stack(rows, 1), [len(boxes), 1, size, size], align_corners=False)
    return F.grid_sample(glimpses, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def render(model: GNM, objects: Objects, background: Tensor) -> tuple[Tensor, Tensor]:
    """Render images `(B, 3, H, W)`; and return the boxes of the objects, `(B, N, 4)`."""
    batch, count = objects.presence.shape
    size = model.params.resolution
    glimpses = model.glimpses(objects.what.flatten(0, 1))
    boxes = place(objects.where, model.params.grid)
    alpha = glimpses[:, 3:] * objects.presence.reshape(-1, 1, 1, 1)
    flat = boxes.flatten(0, 1)
    opacity = warp(alpha, flat, size).view(batch, count, 1, size, size)
    painted = warp(alpha * glimpses[:, :3], flat, size).view(batch, count, 3, size, size)
    nearness = (-objects.depth.reshape(-1, 1, 1, 1)).sigmoid()
    weights = warp(alpha * nearness, flat, size).view(batch, count, 1, size, size)
    foreground = (painted * (weights / (weights.sum(1, keepdim=True) + _EPS))).sum(1)
    covered = straight_through_clamp(opacity.sum(1), _EPS, 1 - _EPS)
    return foreground + (1 - covered) * model.background.paint(background), boxes


def draw_frames(images: Tensor, boxes: Tensor, presence: Tensor) -> Tensor:
    """Draw a frame around each object, one after another, on the CPU."""
    images, boxes, presence = images.detach().cpu().clone(), corners(boxes, images.shape[-1]).cpu(), presence.cpu()
    last = images.shape[-1] - 1
    colour = torch.tensor([1.0, 0.0, 0.0])[:, None]
    for image, of_image, there in zip(images, boxes, presence, strict=True):
        for box, chance in zip(of_image, there, strict=True):
            x0, y0, x1, y1 = (min(last, int(value)) for value in box)
            if chance.item() > 0.5:
                image[:, y0, x0 : x1 + 1] = image[:, y1, x0 : x1 + 1] = colour
                image[:, y0 : y1 + 1, x0] = image[:, y0 : y1 + 1, x1] = colour
    return images


def published_loss(model: GNM, images: Tensor, *, extras: bool = True) -> tuple[Tensor, dict[str, float]]:
    """Compute the loss of a step at the end of all schedules.

    Args:
        model: The model.
        images: `(B, 3, H, W)`, floats in [0, 1].
        extras: Do what the loss does not need, too: the second reconstruction, boxes, and reading of numbers.

    Returns:
        The loss, and what was read.
    """
    p, weights = model.params, weights_at(model.params, 10**12)
    encoded, inferred, inferred_background = model.infer(images)
    objects, background = inferred.sample(weights.tau), inferred_background.sample()
    latent = model.global_latent(encoded)
    expected, expected_background = model.head(latent.features), model.background.expect(latent.samples)
    image, boxes = render(model, objects, background)
    parts = {
        "nll": negative_log_likelihood(image, images, p.sigma),
        **divergences(inferred, expected, inferred_background, expected_background, latent),
        **auxiliary_divergences(
            inferred, objects, inferred_background, weights.presence_prior, p.scale_prior, p.scale_std
        ),
    }
    values = {name: value.mean() for name, value in parts.items()}
    total = loss(values, weights)
    if not extras:
        return total, {}
    imagined = expected.sample(weights.tau)
    again, other_boxes = render(model, imagined, expected_background.sample())
    draw_frames(image, boxes, objects.presence)
    draw_frames(again, other_boxes, imagined.presence)
    read = {name: value.item() for name, value in {**values, "loss": total, "elbo": elbo(values)}.items()}
    return total, read
