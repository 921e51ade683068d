"""Patch orders of SPOT (Kakogeorgiou et al. 2024)."""

from __future__ import annotations

import torch
from torch import Tensor


def patch_orders(height: int, width: int) -> Tensor:
    """Return nine orders of the patches of a grid: by rows or columns from each of the four corners, and a spiral.

    Args:
        height: Rows of the grid, h.
        width: Columns, w.

    Returns:
        Indices of patches, `(9, h w)`, int64. The first order is raster order; the last is an inward spiral from the
        upper left corner.

    Reference:
        Kakogeorgiou et al., SPOT: Self-Training with Patch-Order Permutation for Object-Centric Learning with
        Autoregressive Transformers, CVPR 2024, arXiv 2312.00648.

    Example:
        >>> orders = patch_orders(2, 3)
        >>> orders[0].tolist(), orders[1].tolist(), orders[8].tolist()
        ([0, 1, 2, 3, 4, 5], [2, 1, 0, 5, 4, 3], [0, 1, 2, 5, 4, 3])
    """
    grid = torch.arange(height * width).view(height, width)
    turned = [grid, grid.flip(1), grid.flip(0), grid.flip(0, 1)]
    return torch.stack([*(one.flatten() for one in turned), *(one.T.flatten() for one in turned), _spiral(grid)])


def _spiral(grid: Tensor) -> Tensor:
    """Take the first row, rotate the rest by a quarter turn, and repeat."""
    rows = []
    while grid.numel():
        rows.append(grid[0])
        grid = grid[1:].rot90()
    return torch.cat(rows)
