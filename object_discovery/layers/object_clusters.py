"""Clusters of pixels in front of a smooth background, for clustering-based slot initialisation of images."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_BACKGROUND_ITERATIONS = 8
_RIDGE = 1e-4  # keeps the least squares solvable where few pixels have weight
_MIN_VARIANCE = 2e-4  # of background colours in [0, 1], summed over channels
_BACKGROUND_TOLERANCE = 3.0  # squared residual of similarity 1/2 to the background, in variances
_REACH = 0.6  # distance in half image sizes at which the similarity of two foreground pixels is 1/e
_COLOUR_WEIGHT = 0.7  # of the squared distance of colours, relative to its mean over all pairs
_MARGIN = 0.35  # a pixel counts for a new cluster as far as it is more similar by this
_CANDIDATES = 96  # possible centres


def smooth_background(colours: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Fit a plane of colours to most of an image, by iteratively reweighted least squares.

    Args:
        colours: `(B, h * w, C)`, in [0, 1].
        size: h and w.

    Returns:
        The background `(B, h * w, C)`, and the similarity of each pixel to it, `(B, h * w)`: 1 / (1 + r^2 / (3 v)),
        with r^2 the squared residual and v twice its median.

    Reference:
        Holland and Welsch, Robust Regression Using Iteratively Reweighted Least-Squares, 1977.

    Example:
        >>> ramp = torch.linspace(0, 1, 8).repeat(8)[None, :, None]
        >>> background, similarity = smooth_background(ramp, 8)
        >>> bool((background - ramp).abs().max() < 0.01), bool(similarity.min() > 0.9)
        (True, True)
    """
    steps = torch.linspace(-1, 1, size, dtype=colours.dtype, device=colours.device)
    basis = torch.cat([torch.cartesian_prod(steps, steps), steps.new_ones(size**2, 1)], 1)  # (h * w, 3)
    ridge = _RIDGE * torch.eye(3, dtype=colours.dtype, device=colours.device)
    residuals = (colours - colours.median(1, keepdim=True).values).square().sum(2)
    variance = residuals.median(1, keepdim=True).values.clamp_min(_MIN_VARIANCE)
    for _ in range(_BACKGROUND_ITERATIONS):
        weighted = (1 + residuals / variance).pow(-2)[..., None] * basis
        coefficients = torch.linalg.solve(weighted.transpose(1, 2) @ basis + ridge, weighted.transpose(1, 2) @ colours)
        background = basis @ coefficients
        residuals = (colours - background).square().sum(2)
        variance = (2 * residuals.median(1, keepdim=True).values).clamp_min(_MIN_VARIANCE)
    return background, 1 / (1 + residuals / (_BACKGROUND_TOLERANCE * variance))


@torch.no_grad()
def object_clusters(images: Tensor, size: int, num_clusters: int, min_gain: float = 0.0) -> Tensor:
    """Cluster the pixels of each image: the background first, then connected regions that differ from it.

    The background is a plane of colours (`smooth_background`). The similarity of two other pixels is exp(-d), with d
    the squared distance of their differences from the background (relative to the mean over all pairs) plus that of
    their positions. Centres are selected greedily: each maximises the sum over pixels of the amount by which its
    similarity exceeds that to the background and to all former centres, beyond a margin, so that shades of one object
    are no clusters. Every cluster is then split into its connected components, of which the ones with the largest such
    sums are returned. An object much larger than a third of the image may be several clusters.

    Args:
        images: `(B, 3, H, W)`, in [0, 1].
        size: Height and width h of the grid of pixels that are clustered. Images are resized to it by the median, as
            means would mix the colours along outlines to further ones.
        num_clusters: K.
        min_gain: Drop components whose sum, divided by h * h, is less; images with few objects have fewer clusters.

    Returns:
        Soft assignments `(B, K, h * h)`, float32 in [0, 1]: the similarity of each pixel to its cluster, and 0 to the
        others. The first cluster is the background; dropped ones are 0 and come last.

    Example:
        >>> image = torch.zeros(1, 3, 16, 16)
        >>> image[:, 0, 13:, 13:] = 1
        >>> object_clusters(image, 16, 3).argmax(1).view(16, 16)[12:, 12:].tolist()
        [[0, 0, 0, 0], [0, 1, 1, 1], [0, 1, 1, 1], [0, 1, 1, 1]]
    """
    with torch.autocast(images.device.type, enabled=False):
        colours = _median_pool(images.float(), size).flatten(2).transpose(1, 2)
        background, to_background = smooth_background(colours, size)
        similarities = _select_centres(colours - background, to_background, size, num_clusters - 1, min_gain)
        similarity, cluster = torch.cat([to_background[:, None], similarities], 1).max(1)
        components = connected_components(cluster.view(-1, size, size)).flatten(1)
        gains = (similarity - to_background - _MARGIN).relu()
        sums = gains.new_zeros(len(images), size**2 + 1).scatter_add_(1, components, gains)[:, 1:]
        largest = sums.topk(min(num_clusters - 1, size**2), 1)
        kept = (largest.values > 0) & (largest.values >= min_gain * size**2)
        members = (components[:, None] == largest.indices[..., None] + 1) & kept[..., None]
        clusters = torch.cat([(cluster == 0)[:, None], members], 1) * similarity[:, None]
        return F.pad(clusters, (0, 0, 0, num_clusters - clusters.shape[1]))


def _median_pool(images: Tensor, size: int) -> Tensor:
    """Resize images `(B, C, H, H)` to `(B, C, size, size)` by the median of each block of pixels."""
    block = max(1, images.shape[-1] // size)
    images = F.interpolate(images, (size * block, size * block), mode="nearest-exact")
    blocks = images.view(*images.shape[:2], size, block, size, block).transpose(3, 4)
    return blocks.flatten(4).median(4).values


def _select_centres(differences: Tensor, to_background: Tensor, size: int, count: int, min_gain: float) -> Tensor:
    """Select centres greedily, and return the similarity of each pixel to each, `(B, count, h * h)`."""
    foreground = 1 - to_background
    # the pixels of every second row and column that differ most from the background: no object of 2 x 2 is missed
    grid = torch.arange(size**2, device=foreground.device).view(size, size)[size > 1 :: 2, size > 1 :: 2].flatten()
    candidates = grid[foreground[:, grid].topk(min(_CANDIDATES, len(grid)), 1).indices]
    similarity = _similarity(differences, foreground, candidates, size)
    buffer = torch.empty_like(similarity)
    image_index = torch.arange(len(similarity), device=similarity.device)
    max_similarity, selected = to_background, []
    for _ in range(count):
        gains = torch.sub(similarity, (max_similarity + _MARGIN)[:, None], out=buffer).clamp_min_(0).mean(2)
        gain, centre = gains.max(1)
        to_centre = similarity[image_index, centre]
        max_similarity = torch.maximum(max_similarity, to_centre)
        selected.append(to_centre * ((gain > 0) & (gain >= min_gain))[:, None])
    return torch.stack(selected, 1) if selected else similarity[:, :0]


def _similarity(differences: Tensor, foreground: Tensor, candidates: Tensor, size: int) -> Tensor:
    """Compute the similarity of all pixels to candidates `(B, M)`, `(B, M, h * h)`."""
    mean_distance = 2 * (differences.square().sum(2).mean(1) - differences.mean(1).square().sum(1))
    differences = differences * (_COLOUR_WEIGHT / mean_distance.clamp_min(1e-6)).sqrt()[:, None, None]
    chosen = differences.gather(1, candidates[..., None].expand(-1, -1, differences.shape[2]))
    steps = torch.linspace(-1, 1, size, dtype=differences.dtype, device=differences.device) / _REACH
    positions = torch.cartesian_prod(steps, steps)
    distance = torch.cdist(positions[candidates], positions.expand(len(candidates), -1, -1)).square_()
    distance.mul_(foreground[:, None]).mul_(foreground.gather(1, candidates)[..., None])
    distance += torch.cdist(chosen, differences).square_()
    return distance.neg_().exp_().mul_(foreground[:, None])


def connected_components(labels: Tensor) -> Tensor:
    """Label the 4-connected components of pixels with equal labels.

    Labels spread by one pixel in each of h + w iterations, so that a component with a longer path within it may be
    split.

    Args:
        labels: `(B, h, w)`, integers; 0 belongs to no component.

    Returns:
        Component labels between 1 and h * w, not consecutive, and 0; `(B, h, w)`, int64.

    Example:
        >>> connected_components(torch.tensor([[[1, 1, 0, 1], [2, 2, 0, 0]]]))
        tensor([[[2, 2, 0, 4],
                 [6, 6, 0, 0]]])
    """
    height, width = labels.shape[1:]
    is_labelled = labels > 0
    components = (torch.arange(height * width, device=labels.device).view(height, width) + 1) * is_labelled
    equal_x, equal_y = labels[:, :, 1:] == labels[:, :, :-1], labels[:, 1:] == labels[:, :-1]
    for _ in range(height + width):
        largest = components.clone()
        largest[:, :, 1:] = torch.maximum(largest[:, :, 1:], components[:, :, :-1] * equal_x)
        largest[:, :, :-1] = torch.maximum(largest[:, :, :-1], components[:, :, 1:] * equal_x)
        largest[:, 1:] = torch.maximum(largest[:, 1:], components[:, :-1] * equal_y)
        largest[:, :-1] = torch.maximum(largest[:, :-1], components[:, 1:] * equal_y)
        components = largest
    return components * is_labelled
