"""Greedy clustering of pixels by appearance and position, for clustering-based slot initialisation."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_BANDWIDTH = 0.3  # of the kernel density of colours: squared distance relative to the mean over all pairs


@torch.no_grad()
def appearance_clusters(
    images: Tensor, size: int, num_clusters: int, min_gain: float = 0.0, first_similarity: Tensor | None = None
) -> Tensor:
    """Cluster the pixels of each image by colour and position with the greedy algorithm of facility location.

    The similarity of two pixels is exp(-d), with d the squared distance of their colours (relative to the mean over all
    pairs of the image) plus that of their positions in [-1, 1], weighted by the rarity of both colours. Pixels of a
    common colour, such as the background, are therefore similar at any distance, those of a rare colour only if they
    are close. Each new centre maximises the sum over pixels of the similarity to their most similar centre; the first
    one is usually in the background.

    Args:
        images: Images or feature maps, `(B, C, H, W)`, of any range.
        size: Height and width h of the grid of pixels that are clustered; images are resized to it by nearest
            neighbours.
        num_clusters: K.
        min_gain: Drop centres (except the first) that increase this sum, divided by h * h, by less; images with few
            objects then have fewer clusters.
        first_similarity: Similarity of each pixel to the first centre, `(B, h * h)` in [0, 1], such as that to a known
            background. None: select the first centre as the others.

    Returns:
        Soft assignments `(B, K, h * h)`, float32 in [0, 1]: s times s / sum(s) over the centres, where s is the
        similarity of a pixel to a centre. 0 for dropped clusters, which come last.

    Reference:
        Nemhauser, Wolsey and Fisher, An Analysis of Approximations for Maximizing Submodular Set Functions, 1978;
        for slot initialisation: Gao et al. 2023, arXiv 2308.11369.

    Example:
        >>> image = torch.zeros(1, 3, 8, 8)
        >>> image[:, 0, 5:, 5:] = 1
        >>> appearance_clusters(image, 8, 2).argmax(1).view(8, 8)[4:, 4:].tolist()
        [[0, 0, 0, 0], [0, 1, 1, 1], [0, 1, 1, 1], [0, 1, 1, 1]]
    """
    with torch.autocast(images.device.type, enabled=False):
        similarity = _similarity(images.float(), size)
        image_index = torch.arange(len(images), device=images.device)
        max_similarity = torch.zeros_like(similarity[:, 0]) if first_similarity is None else first_similarity.float()
        centres = [] if first_similarity is None else [max_similarity]
        while len(centres) < num_clusters:
            gain, centre = (similarity - max_similarity[:, None]).relu_().mean(2).max(1)
            similarity_to_centre = similarity[image_index, centre]
            max_similarity = torch.maximum(max_similarity, similarity_to_centre)
            centres.append(similarity_to_centre * (gain >= min_gain)[:, None] if centres else similarity_to_centre)
        similarities = torch.stack(centres, 1)
        return similarities * (similarities / similarities.sum(1, keepdim=True).clamp_min(1e-6))


def _similarity(images: Tensor, size: int) -> Tensor:
    """Compute the similarity of all pairs of pixels, `(B, h * h, h * h)`."""
    colours = F.interpolate(images, (size, size), mode="nearest-exact").flatten(2).transpose(1, 2)
    difference = torch.cdist(colours, colours).square_()
    difference /= difference.mean((1, 2), keepdim=True).clamp_min(1e-6)
    rarity = (1 - (difference / -_BANDWIDTH).exp_().mean(2)).square_()
    steps = torch.linspace(-1, 1, size, device=images.device, dtype=colours.dtype)
    grid = torch.cartesian_prod(steps, steps)
    distance = torch.cdist(grid, grid).square_()
    difference += distance * rarity[:, :, None] * rarity[:, None]
    return difference.neg_().exp_()
