"""Seeds: clusters of pixels that do not look like the background, from which objects begin. Not published."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from object_discovery.layers.clustering import appearance_clusters

SEED_SIZE = 8
"""Numbers that describe a cell's seed, see `Seeds.described`."""
_SIDE = 20  # rows and columns of pixels that are clustered
_LEAST_GAIN = 0.006
_LEAST_PIXELS = 2
_ALIKE = 0.5  # from this likeness to the background on a pixel is not an object's
_FRAME = 5.0  # sizes of frames in standard deviations of their pixels; an even row of pixels is 3.5 long
_SIZES = (0.05, 0.9)
_MOST_SHIFT = 0.95


class Seeds(NamedTuple):
    """Where clusters expect objects, in N cells of B images; all is 0 where none is expected."""

    there: Tensor
    """Whether an object is expected, `(B, N)`, bool."""
    where: Tensor
    """Its `Objects.where`, `(B, N, 4)`."""
    colours: Tensor
    """The mean colour of its pixels, `(B, N, 3)`, in [0, 1]."""

    def described(self) -> Tensor:
        """Put everything about each cell's seed into numbers `(B, N, 8)` of about the same size."""
        there = self.there[..., None].to(self.where.dtype)
        return torch.cat([there, self.where, 4 * (self.colours - 0.5) * there], -1)


@torch.no_grad()
def find_seeds(images: Tensor, background: Tensor, margin: float, grid: int) -> Seeds:
    """Cluster the pixels that differ from the background, and give each connected piece a cell of its own.

    The larger pieces choose first, each the nearest cell that is still free and whose object can reach it; a piece that
    finds none is left out.

    Args:
        images: `(B, 3, H, W)`, in [0, 1].
        background: What the background is thought to look like, `(B, 3, H, W)`.
        margin: Difference of colours at which a pixel is as little background as not.
        grid: G; there are N = G x G cells.

    Example:
        >>> images = torch.zeros(1, 3, 40, 40)
        >>> images[:, 0, 25:35, 5:15] = 1  # an object in the lower left
        >>> seeds = find_seeds(images, torch.zeros_like(images), 0.1, grid=2)
        >>> seeds.there.tolist(), seeds.colours[0, 2].round().tolist()
        ([[False, False, True, False]], [1.0, 0.0, 0.0])
    """
    with torch.autocast(images.device.type, enabled=False):  # variances of small pieces need float32
        images = images.float()
        weights, sizes = _pieces(images, background.float(), margin, min(grid**2, _SIDE**2))
        centres, extents = _boxes(weights)  # of pixels (B, K, h * h)
        cells = _assign(centres, sizes >= _LEAST_PIXELS, grid)  # (B, K, N)
        taken = cells.to(centres.dtype).transpose(1, 2)
        shift = (taken @ centres - _middles(grid, images.device)) * (grid / 2)
        size = (taken @ extents).clamp(*_SIZES)
        scale, ratio = size.prod(-1).sqrt().logit(), (size[..., 1] / size[..., 0]).log()
        shift = shift.clamp(-_MOST_SHIFT, _MOST_SHIFT).atanh()
        there = cells.any(1)
        where = torch.cat([torch.stack([scale, ratio], -1), shift], -1) * there[..., None]
        return Seeds(there, where, taken @ weights @ _coarse(images))


def connected_pieces(labels: Tensor) -> Tensor:
    """Number the connected pieces of each label: pixels of one label that touch at an edge have one number.

    Args:
        labels: `(B, h, w)`, integers; 0 belongs to no piece.

    Returns:
        Numbers from 1 to h * w, not in a row, and 0; `(B, h, w)`, int64.

    Example:
        >>> connected_pieces(torch.tensor([[[1, 1, 0, 1], [2, 2, 0, 0]]]))
        tensor([[[2, 2, 0, 4],
                 [6, 6, 0, 0]]])
    """
    height, width = labels.shape[1:]
    there = labels > 0
    pieces = (torch.arange(height * width, device=labels.device).view(height, width) + 1) * there
    across, down = labels[:, :, 1:] == labels[:, :, :-1], labels[:, 1:] == labels[:, :-1]
    # The largest number spreads, a pixel at a time; what winds on for longer falls apart.
    for _ in range(height + width):
        best = pieces.clone()
        best[:, :, 1:] = torch.maximum(best[:, :, 1:], pieces[:, :, :-1] * across)
        best[:, :, :-1] = torch.maximum(best[:, :, :-1], pieces[:, :, 1:] * across)
        best[:, 1:] = torch.maximum(best[:, 1:], pieces[:, :-1] * down)
        best[:, :-1] = torch.maximum(best[:, :-1], pieces[:, 1:] * down)
        pieces = best
    return pieces * there


def _pieces(images: Tensor, background: Tensor, margin: float, count: int) -> tuple[Tensor, Tensor]:
    """Return the `count` largest pieces as weights of pixels `(B, K, h * h)`, and their sizes `(B, K)`, falling."""
    difference = (images - background).square().mean(1, keepdim=True)
    alike = 1 / (1 + _coarse(difference).squeeze(2) / margin**2)
    shares = appearance_clusters(images, _SIDE, count + 1, _LEAST_GAIN, alike)
    clusters = shares.argmax(1) * (alike < _ALIKE)
    pieces = connected_pieces(clusters.view(-1, _SIDE, _SIDE)).flatten(1)
    mass = torch.zeros(len(pieces), _SIDE**2 + 1, device=pieces.device)
    mass = mass.scatter_add_(1, pieces, torch.ones_like(pieces, dtype=mass.dtype))[:, 1:]
    largest = mass.topk(count, dim=1)
    weights = (pieces[:, None] == largest.indices[..., None] + 1).float() / largest.values.clamp_min(1)[..., None]
    return weights, largest.values


def _coarse(images: Tensor) -> Tensor:
    """Take the pixels `(B, h * h, C)` that are clustered out of images `(B, C, H, W)`."""
    return F.interpolate(images, (_SIDE, _SIDE), mode="nearest-exact").flatten(2).transpose(1, 2)


def _middles(count: int, device: torch.device) -> Tensor:
    """Return the middles of `count` by `count` cells, x and y in [-1, 1], `(count * count, 2)`."""
    steps = (torch.arange(count, device=device) + 0.5) * (2 / count) - 1
    return torch.cartesian_prod(steps, steps).flip(1)


def _boxes(weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return centres in [-1, 1] and sizes as shares of the image's, `(B, K, 2)` each, of pixels with weights."""
    places = _middles(_SIDE, weights.device)
    centres = weights @ places
    variance = (weights @ places.square() - centres.square()).clamp_min(0)
    of_a_pixel = (2 / _SIDE) ** 2 / 12
    return centres, _FRAME / 2 * (variance + of_a_pixel).sqrt()


def _assign(centres: Tensor, valid: Tensor, grid: int) -> Tensor:
    """Give each cluster a cell: bool `(B, K, N)`."""
    distances = (centres[:, :, None] - _middles(grid, centres.device)).abs().amax(-1)
    distances = distances.masked_fill((distances > 2 / grid) | ~valid[..., None], torch.inf)
    taken = torch.zeros_like(distances[:, 0])
    chosen = []
    for distance in distances.unbind(1):
        nearest = (distance + taken).min(1, keepdim=True)
        cell = torch.zeros_like(taken, dtype=torch.bool).scatter_(1, nearest.indices, nearest.values.isfinite())
        taken = taken.masked_fill(cell, torch.inf)
        chosen.append(cell)
    return torch.stack(chosen, 1)
