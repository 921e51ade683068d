"""Greedy clustering of pixels by appearance and position, for clustering-based slot initialisation."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_RARE = 0.3  # bandwidth of the density of colours, a squared distance relative to the mean of the image


@torch.no_grad()
def appearance_clusters(
    images: Tensor, size: int, num_clusters: int, least_gain: float = 0.0, first: Tensor | None = None
) -> Tensor:
    """Cluster the pixels of each image by colour and position with the greedy algorithm of facility location.

    The similarity of two pixels is exp(-d), with d the squared distance of their colours (relative to the mean over all
    pairs of the image) plus that of their positions in [-1, 1], weighted by the rarity of both colours. Pixels of a
    common colour, such as the background, are therefore similar at any distance, those of a rare colour only if they
    are close. Each centre maximises the sum over pixels of the similarity to the nearest centre so far; the first one
    is mostly the background.

    Args:
        images: Images or feature maps, `(B, C, H, W)`, of any range.
        size: Height and width h of the grid of pixels that are clustered, sampled from the nearest pixels.
        num_clusters: K.
        least_gain: Drop centres (except the first) that increase this sum, divided by h * h, by less. Images of few
            objects then have fewer clusters.
        first: Similarity of each pixel to the first centre, `(B, h * h)` in [0, 1], such as a known background. None:
            selected as the other centres.

    Returns:
        Soft assignments `(B, K, h * h)`, float32 in [0, 1]: similarity times its share among the centres. 0 for dropped
        clusters, which come last.

    Reference:
        Nemhauser, Wolsey and Fisher, An Analysis of Approximations for Maximizing Submodular Set Functions, 1978;
        for the use: Gao et al. 2023, arXiv 2308.11369.

    Example:
        >>> image = torch.zeros(1, 3, 8, 8)
        >>> image[:, 0, 5:, 5:] = 1
        >>> appearance_clusters(image, 8, 2).argmax(1).view(8, 8)[4:, 4:].tolist()
        [[0, 0, 0, 0], [0, 1, 1, 1], [0, 1, 1, 1], [0, 1, 1, 1]]
    """
    with torch.autocast(images.device.type, enabled=False):
        similarity = _similarity(images.float(), size)
        rows = torch.arange(len(images), device=images.device)
        nearest = torch.zeros_like(similarity[:, 0]) if first is None else first.float()
        centres = [] if first is None else [nearest]
        while len(centres) < num_clusters:
            gain, centre = (similarity - nearest[:, None]).relu_().mean(2).max(1)
            similarity_to_centre = similarity[rows, centre]
            nearest = torch.maximum(nearest, similarity_to_centre)
            centres.append(similarity_to_centre * (gain >= least_gain)[:, None] if centres else similarity_to_centre)
        chosen = torch.stack(centres, 1)
        return chosen * (chosen / chosen.sum(1, keepdim=True).clamp_min(1e-6))


def _similarity(images: Tensor, size: int) -> Tensor:
    """Compute the similarity of all pairs of pixels, `(B, h * h, h * h)`."""
    colours = F.interpolate(images, (size, size), mode="nearest-exact").flatten(2).transpose(1, 2)
    difference = torch.cdist(colours, colours).square_()
    difference /= difference.mean((1, 2), keepdim=True).clamp_min(1e-6)
    rarity = (1 - (difference / -_RARE).exp_().mean(2)).square_()
    steps = torch.linspace(-1, 1, size, device=images.device, dtype=colours.dtype)
    grid = torch.cartesian_prod(steps, steps)
    distance = torch.cdist(grid, grid).square_()
    difference += distance * rarity[:, :, None] * rarity[:, None]
    return difference.neg_().exp_()
