"""Clusters of pixels that look alike and lie close together: where slots may start."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_RARE = 0.3  # squared distance of colours, relative to the image's mean, within which a colour counts as the same


@torch.no_grad()
def appearance_clusters(
    images: Tensor, size: int, num_clusters: int, least_gain: float = 0.0, first: Tensor | None = None
) -> Tensor:
    """Cluster the pixels of each image by colour and position, greedily and without learning.

    Pixels are alike by the kernel exp(-d), with d the squared distance of their colours (relative to the mean over all
    pairs of the image) plus that of their positions in [-1, 1], the latter weighed by how rare their colours are. So
    pixels of a common colour, the background, are alike wherever they are, and those of a rare colour only nearby.
    Centres are chosen one by one such that the sum over pixels of the likeness to the nearest centre grows most, which
    is the greedy algorithm of facility location; the first is mostly the background.

    Args:
        images: Images or maps of features, `(B, C, H, W)`, any range.
        size: Height and width h of the grid on which the clusters are formed; every pixel of it is sampled once.
        num_clusters: K.
        least_gain: Leave out the centres, but for the first, by which that sum, divided by h * h, grows less. An image
            of few objects then gets fewer clusters.
        first: How much each pixel is like the first cluster, `(B, h * h)` in [0, 1], such as a background that is
            known. None: it is chosen as the others are.

    Returns:
        Shares `(B, K, h * h)`, float32 in [0, 1]; small where a pixel is like no centre; 0 for clusters left out, which
        come last.

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
        likeness = _likeness(images.float(), size)
        rows = torch.arange(len(images), device=images.device)
        nearest = torch.zeros_like(likeness[:, 0]) if first is None else first.float()
        centres = [] if first is None else [nearest]
        while len(centres) < num_clusters:
            gain, centre = (likeness - nearest[:, None]).relu_().mean(2).max(1)
            alike = likeness[rows, centre]
            nearest = torch.maximum(nearest, alike)
            centres.append(alike * (gain >= least_gain)[:, None] if centres else alike)
        chosen = torch.stack(centres, 1)
        return chosen * (chosen / chosen.sum(1, keepdim=True).clamp_min(1e-6))


def _likeness(images: Tensor, size: int) -> Tensor:
    """Compare every two pixels, `(B, h * h, h * h)`."""
    colours = F.interpolate(images, (size, size), mode="nearest-exact").flatten(2).transpose(1, 2)
    difference = torch.cdist(colours, colours).square_()
    difference /= difference.mean((1, 2), keepdim=True).clamp_min(1e-6)
    rarity = (1 - (difference / -_RARE).exp_().mean(2)).square_()
    steps = torch.linspace(-1, 1, size, device=images.device, dtype=colours.dtype)
    grid = torch.cartesian_prod(steps, steps)
    distance = torch.cdist(grid, grid).square_()
    difference += distance * rarity[:, :, None] * rarity[:, None]
    return difference.neg_().exp_()
