"""Clustering-based object proposals, which initialise z_pres and z_where of the posterior. Not published."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from object_discovery.layers.clustering import appearance_clusters
from object_discovery.layers.object_clusters import connected_components

PROPOSAL_SIZE = 8
"""Size of a cell's proposal vector, see `ObjectProposals.vectors`."""
_CLUSTER_RESOLUTION = 20  # images are clustered at 20 x 20 pixels
_MIN_CLUSTER_GAIN = 0.006
_MIN_COMPONENT_PIXELS = 2
_BACKGROUND_THRESHOLD = 0.5  # pixels at least this similar to the background belong to no object
_BOX_STDS = 5.0  # box size in standard deviations of the pixel positions; a uniform row of pixels spans 3.5
_BOX_SIZES = (0.05, 0.9)  # smallest and largest box, as fractions of the image
_MAX_SHIFT = 0.95


class ObjectProposals(NamedTuple):
    """At most one proposed object in each of N cells of B images; all fields are 0 in cells without a proposal."""

    valid: Tensor
    """Whether the cell has a proposal, `(B, N)`, bool."""
    where: Tensor
    """z_where of the proposal, `(B, N, 4)`."""
    colours: Tensor
    """Mean colour of its pixels, `(B, N, 3)`, in [0, 1]."""

    def vectors(self) -> Tensor:
        """Concatenate validity, z_where and centred colour into proposal vectors `(B, N, 8)` of similar scale."""
        valid = self.valid[..., None].to(self.where.dtype)
        return torch.cat([valid, self.where, 4 * (self.colours - 0.5) * valid], -1)


@torch.no_grad()
def propose_objects(images: Tensor, background: Tensor, margin: float, grid: int) -> ObjectProposals:
    """Propose objects: connected components of colour clusters that differ from the background.

    Components are assigned to cells in descending order of size, each to the nearest free cell whose box can reach its
    centre; a component for which there is none is dropped.

    Args:
        images: `(B, 3, H, W)`, in [0, 1].
        background: Reconstruction of the background, `(B, 3, H, W)`.
        margin: Colour difference at which the similarity to the background is 0.5.
        grid: G; there are N = G x G cells.

    Example:
        >>> images = torch.zeros(1, 3, 40, 40)
        >>> images[:, 0, 25:35, 5:15] = 1  # an object in the lower left
        >>> proposals = propose_objects(images, torch.zeros_like(images), 0.1, grid=2)
        >>> proposals.valid.tolist(), proposals.colours[0, 2].round().tolist()
        ([[False, False, True, False]], [1.0, 0.0, 0.0])
    """
    with torch.autocast(images.device.type, enabled=False):  # variances of small components need float32
        images = images.float()
        num_components = min(grid**2, _CLUSTER_RESOLUTION**2)
        weights, sizes = _largest_components(images, background.float(), margin, num_components)
        centres, extents = _component_boxes(weights)
        assignment = _assign_cells(centres, sizes >= _MIN_COMPONENT_PIXELS, grid)  # (B, K, N)
        to_cells = assignment.to(centres.dtype).transpose(1, 2)
        shift = (to_cells @ centres - _cell_centres(grid, images.device)) * (grid / 2)
        size = (to_cells @ extents).clamp(*_BOX_SIZES)
        scale, log_ratio = size.prod(-1).sqrt().logit(), (size[..., 1] / size[..., 0]).log()
        raw_shift = shift.clamp(-_MAX_SHIFT, _MAX_SHIFT).atanh()
        valid = assignment.any(1)
        where = torch.cat([torch.stack([scale, log_ratio], -1), raw_shift], -1) * valid[..., None]
        return ObjectProposals(valid, where, to_cells @ weights @ _cluster_pixels(images))


def _largest_components(images: Tensor, background: Tensor, margin: float, count: int) -> tuple[Tensor, Tensor]:
    """Compute the `count` largest components: pixel weights `(B, K, h * h)` and sizes `(B, K)`, descending."""
    difference = (images - background).square().mean(1, keepdim=True)
    similarity = 1 / (1 + _cluster_pixels(difference).squeeze(2) / margin**2)  # to the background
    soft_clusters = appearance_clusters(images, _CLUSTER_RESOLUTION, count + 1, _MIN_CLUSTER_GAIN, similarity)
    clusters = soft_clusters.argmax(1) * (similarity < _BACKGROUND_THRESHOLD)
    components = connected_components(clusters.view(-1, _CLUSTER_RESOLUTION, _CLUSTER_RESOLUTION)).flatten(1)
    sizes = torch.zeros(len(components), _CLUSTER_RESOLUTION**2 + 1, device=components.device)
    sizes = sizes.scatter_add_(1, components, torch.ones_like(components, dtype=sizes.dtype))[:, 1:]
    largest = sizes.topk(count, dim=1)
    masks = components[:, None] == largest.indices[..., None] + 1
    return masks.float() / largest.values.clamp_min(1)[..., None], largest.values


def _cluster_pixels(images: Tensor) -> Tensor:
    """Resize images `(B, C, H, W)` to the resolution of the clustering and flatten them to `(B, h * h, C)`."""
    size = (_CLUSTER_RESOLUTION, _CLUSTER_RESOLUTION)
    return F.interpolate(images, size, mode="nearest-exact").flatten(2).transpose(1, 2)


def _cell_centres(count: int, device: torch.device) -> Tensor:
    """Compute the centres x, y in [-1, 1] of a grid of `count` x `count` cells, `(count * count, 2)`."""
    coordinates = (torch.arange(count, device=device) + 0.5) * (2 / count) - 1
    return torch.cartesian_prod(coordinates, coordinates).flip(1)


def _component_boxes(weights: Tensor) -> tuple[Tensor, Tensor]:
    """Compute centres in [-1, 1] and sizes as fractions of the image, `(B, K, 2)` each, from pixel weights."""
    positions = _cell_centres(_CLUSTER_RESOLUTION, weights.device)
    centres = weights @ positions
    variance = (weights @ positions.square() - centres.square()).clamp_min(0)
    pixel_variance = (2 / _CLUSTER_RESOLUTION) ** 2 / 12
    return centres, _BOX_STDS / 2 * (variance + pixel_variance).sqrt()


def _assign_cells(centres: Tensor, valid: Tensor, grid: int) -> Tensor:
    """Assign each component greedily to the nearest free cell in reach: bool `(B, K, N)`."""
    distances = (centres[:, :, None] - _cell_centres(grid, centres.device)).abs().amax(-1)
    distances = distances.masked_fill((distances > 2 / grid) | ~valid[..., None], torch.inf)
    occupied = torch.zeros_like(distances[:, 0])  # inf in cells that are assigned
    assignments = []
    for distance in distances.unbind(1):
        nearest = (distance + occupied).min(1, keepdim=True)
        cell = torch.zeros_like(occupied, dtype=torch.bool).scatter_(1, nearest.indices, nearest.values.isfinite())
        occupied = occupied.masked_fill(cell, torch.inf)
        assignments.append(cell)
    return torch.stack(assignments, 1)
