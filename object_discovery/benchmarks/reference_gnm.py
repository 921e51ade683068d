"""Training step of GNM with the inefficiencies of public implementations, on the weights of the library's model.

Each object is warped three times by grid_sample; every step also reconstructs from the global latent and plots boxes
object by object on the CPU; and every logged number is read immediately, which synchronises with the device.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from object_discovery.models.gnm.decomposition import box_corners
from object_discovery.models.gnm.distributions import straight_through_clamp
from object_discovery.models.gnm.local_latents import ObjectLatents, where_to_boxes
from object_discovery.models.gnm.model import GNM
from object_discovery.models.gnm.objective import (
    auxiliary_kl_terms,
    elbo,
    kl_terms,
    negative_log_likelihood,
    schedule_values,
    weighted_loss,
)

_EPS = 1e-15
_END_OF_SCHEDULES = 10**12


def warp(glimpses: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Warp glimpses `(M, C, g, g)` into boxes `(M, 4)` of images `(M, C, size, size)` by grid_sample."""
    width, height, x, y = boxes.unbind(-1)
    zero = torch.zeros_like(x)
    theta = [torch.stack([1 / width, zero, -x / width], -1), torch.stack([zero, 1 / height, -y / height], -1)]
    grid = F.affine_grid(torch.stack(theta, 1), [len(boxes), 1, size, size], align_corners=False)
    return F.grid_sample(glimpses, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def render(model: GNM, objects: ObjectLatents, background: Tensor) -> tuple[Tensor, Tensor]:
    """Render images `(B, 3, H, W)`, and return the objects' boxes `(B, N, 4)`."""
    batch, count = objects.presence.shape
    size = model.params.resolution
    glimpses = model.glimpses(objects.what.flatten(0, 1))
    boxes = where_to_boxes(objects.where, model.params.grid)
    glimpse_alpha = glimpses[:, 3:] * objects.presence.reshape(-1, 1, 1, 1)
    flat_boxes = boxes.flatten(0, 1)
    alpha = warp(glimpse_alpha, flat_boxes, size).view(batch, count, 1, size, size)
    rgb = warp(glimpse_alpha * glimpses[:, :3], flat_boxes, size).view(batch, count, 3, size, size)
    depth_weight = (-objects.depth.reshape(-1, 1, 1, 1)).sigmoid()
    weights = warp(glimpse_alpha * depth_weight, flat_boxes, size).view(batch, count, 1, size, size)
    foreground = (rgb * (weights / (weights.sum(1, keepdim=True) + _EPS))).sum(1)
    total_alpha = straight_through_clamp(alpha.sum(1), _EPS, 1 - _EPS)
    return foreground + (1 - total_alpha) * model.background.decode(background), boxes


def draw_boxes_one_by_one(images: Tensor, boxes: Tensor, presence: Tensor) -> Tensor:
    """Plot the box of each present object, one after another, on the CPU."""
    images, boxes, presence = images.detach().cpu().clone(), box_corners(boxes, images.shape[-1]).cpu(), presence.cpu()
    last = images.shape[-1] - 1
    colour = torch.tensor([1.0, 0.0, 0.0])[:, None]
    for image, image_boxes, image_presence in zip(images, boxes, presence, strict=True):
        for box, probability in zip(image_boxes, image_presence, strict=True):
            x0, y0, x1, y1 = (min(last, int(value)) for value in box)
            if probability.item() > 0.5:
                image[:, y0, x0 : x1 + 1] = image[:, y1, x0 : x1 + 1] = colour
                image[:, y0 : y1 + 1, x0] = image[:, y0 : y1 + 1, x1] = colour
    return images


def reference_loss(model: GNM, images: Tensor, *, logging: bool = True) -> tuple[Tensor, dict[str, float]]:
    """Compute the loss of a step at the end of all schedules.

    Args:
        model: The model.
        images: `(B, 3, H, W)`, floats in [0, 1].
        logging: Also do what public implementations log in every step: the reconstruction from the global latent, the
            boxes, and the loss terms as numbers.

    Returns:
        The loss, and the logged numbers.
    """
    p, schedule = model.params, schedule_values(model.params, _END_OF_SCHEDULES)
    features, posterior, background_posterior = model.infer(images)
    objects, background = posterior.rsample(schedule.tau), background_posterior.rsample()
    global_latent = model.global_latent(features)
    prior = model.head(global_latent.features)
    background_prior = model.background.conditional_prior(global_latent.samples)
    image, boxes = render(model, objects, background)
    terms = {
        "nll": negative_log_likelihood(image, images, p.sigma),
        **kl_terms(posterior, prior, background_posterior, background_prior, global_latent),
        **auxiliary_kl_terms(
            posterior, objects, background_posterior, schedule.presence_prior, p.scale_prior, p.scale_std
        ),
    }
    means = {name: value.mean() for name, value in terms.items()}
    loss = weighted_loss(means, schedule)
    if not logging:
        return loss, {}
    prior_objects = prior.rsample(schedule.tau)
    reconstruction, prior_boxes = render(model, prior_objects, background_prior.rsample())
    draw_boxes_one_by_one(image, boxes, objects.presence)
    draw_boxes_one_by_one(reconstruction, prior_boxes, prior_objects.presence)
    logged = {name: value.item() for name, value in {**means, "loss": loss, "elbo": elbo(means)}.items()}
    return loss, logged
