"""Batched k-means."""

from __future__ import annotations

import torch
from torch import Tensor


@torch.no_grad()
def kmeans(points: Tensor, num_clusters: int, *, iterations: int = 50, restarts: int = 4) -> tuple[Tensor, Tensor]:
    """Cluster the points of each image by Lloyd's algorithm with k-means++ initialisation and several restarts.

    Random numbers are sampled on the CPU, so that a seed gives the same clusters on every device.

    Args:
        points: `(B, N, F)`, floats.
        num_clusters: K, at most N.
        iterations: Maximum number of iterations; fewer at convergence.
        restarts: Number of initialisations; the result with the smallest sum of squared distances is returned.

    Returns:
        The cluster of each point, `(B, N)`, int64 from 0 to K - 1; and the centres as offsets from the mean of the
        image's points, `(B, K, F)`, float32.

    Raises:
        ValueError: If there are fewer points than clusters.

    Reference:
        Arthur and Vassilvitskii, k-means++: The Advantages of Careful Seeding, 2007.

    Example:
        >>> labels, centres = kmeans(torch.tensor([[[0.0], [0.1], [5.0], [5.1]]]), 2)
        >>> bool(labels[0, 0] == labels[0, 1] != labels[0, 2] == labels[0, 3])
        True
    """
    if not 1 <= num_clusters <= points.shape[1]:
        raise ValueError(f"Expected argument `num_clusters` to be from 1 to {points.shape[1]}, but got {num_clusters}")
    points = points.float()
    points = points - points.mean(1, keepdim=True)  # distances far from the origin are inexact
    best_labels, best_centres, best_error = _lloyd(points, _plus_plus(points, num_clusters), iterations)
    for _ in range(restarts - 1):
        labels, centres, error = _lloyd(points, _plus_plus(points, num_clusters), iterations)
        better = error < best_error
        best_labels = torch.where(better[:, None], labels, best_labels)
        best_centres = torch.where(better[:, None, None], centres, best_centres)
        best_error = torch.minimum(error, best_error)
    return best_labels, best_centres


def _plus_plus(points: Tensor, num_clusters: int) -> Tensor:
    """Sample k-means++ centres `(B, K, F)`: probability proportional to the squared distance to the nearest centre."""
    image_index = torch.arange(len(points), device=points.device)
    nearest = torch.ones(points.shape[:2], device=points.device)
    centres = []
    for _ in range(num_clusters):
        cumulative = nearest.cpu().double().cumsum(1)  # on the CPU, since Apple's GPUs have no double precision
        sample = torch.rand(len(points), 1, dtype=torch.float64) * cumulative[:, -1:]
        index = torch.searchsorted(cumulative, sample, right=True)[:, 0].clamp(max=points.shape[1] - 1)
        centres.append(points[image_index, index.to(points.device)])
        distance = (points - centres[-1][:, None]).square().sum(2)
        nearest = distance if len(centres) == 1 else torch.minimum(nearest, distance)
    return torch.stack(centres, 1)


def _lloyd(points: Tensor, centres: Tensor, iterations: int) -> tuple[Tensor, Tensor, Tensor]:
    """Run Lloyd's algorithm until convergence; return labels, centres, and sums of squared distances `(B,)`."""
    labels, error = _assign(points, centres)
    for _ in range(iterations):
        membership = torch.nn.functional.one_hot(labels, centres.shape[1]).to(points.dtype)  # (B, N, K)
        count = membership.sum(1)[:, :, None]
        means = membership.transpose(1, 2) @ points / count.clamp(min=1)
        centres = torch.where(count > 0, means, centres)
        previous = labels
        labels, error = _assign(points, centres)
        if torch.equal(labels, previous):
            break
    return labels, centres, error


def _assign(points: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """Assign points to their nearest centres; return labels `(B, N)` and sums of squared distances `(B,)`."""
    distance = centres.square().sum(2)[:, None] - 2 * points @ centres.transpose(1, 2)  # without |points|^2
    nearest = distance.min(2)
    return nearest.indices, (nearest.values + points.square().sum(2)).sum(1)
