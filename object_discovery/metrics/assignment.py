"""Match rows to columns one to one at the least total cost, for a whole batch at once and on its device."""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from object_discovery.metrics.contingency import off_mps

_FREE = -1


def linear_assignment(cost: Tensor, *, maximize: bool = False, batched: bool | None = None) -> Tensor:
    """Solve a batch of linear assignment problems exactly.

    On the CPU scipy solves them one by one. Elsewhere all are solved together by shortest augmenting paths, row by row.
    Every loop has a length that the shape fixes then, so nothing is read back from the device: n (n + 1) / 2 steps of
    O(B m), with n the smaller and m the larger of N and M. Costs must be finite, which cannot be checked without
    waiting: a NaN or an infinity makes the matching of its image meaningless.

    Args:
        cost: Cost of matching each row to each column, `(B, N, M)`; computed in float64 whatever its type.
        maximize: Find the largest total instead of the smallest.
        batched: Solve them together. None: wherever the device is not the CPU.

    Returns:
        The column of each row, `(B, N)`, int64; -1 for the rows left over when N > M.

    Raises:
        ValueError: If `cost` is not of three dimensions.

    Reference:
        Crouse, On Implementing 2D Rectangular Assignment Algorithms, IEEE TAES 2016 (both ways).

    Example:
        >>> linear_assignment(torch.tensor([[[4.0, 1.0, 3.0], [2.0, 0.0, 5.0]]])).tolist()
        [[1, 0]]
    """
    if cost.ndim != 3:
        raise ValueError(f"Expected argument `cost` to be of shape (B, N, M), but got {tuple(cost.shape)}")
    device = cost.device
    if not (device.type != "cpu" if batched is None else batched):
        return _assign_one_by_one(cost.detach().double().cpu().nan_to_num(0, 0, 0), maximize).to(device)
    cost = off_mps(cost.detach()).to(torch.float64)
    cost = -cost if maximize else cost
    if cost.shape[1] <= cost.shape[2]:
        return _assign_rows(cost).to(device)
    row_of = _assign_rows(cost.transpose(1, 2).contiguous())  # (B, M): the row of each column
    columns = torch.arange(cost.shape[2], device=cost.device).expand_as(row_of)
    return row_of.new_full(cost.shape[:2], _FREE).scatter_(1, row_of, columns).to(device)


def _assign_one_by_one(cost: Tensor, maximize: bool) -> Tensor:
    assigned = np.full(cost.shape[:2], _FREE, np.int64)
    for columns, problem in zip(assigned, cost.numpy(), strict=True):
        rows, found = linear_sum_assignment(problem, maximize=maximize)
        columns[rows] = found
    return torch.from_numpy(assigned)


def _assign_rows(cost: Tensor) -> Tensor:
    """Assign n rows to m >= n columns, of which at most n * n can matter: the others take n - 1, so the n best do."""
    n, m = cost.shape[1:]
    if m <= n * n:
        return _augment(cost)
    best = cost.topk(n, dim=2, largest=False).indices.flatten(1)  # (B, n * n), with repeats
    matters = cost.new_zeros(len(cost), m).scatter_(1, best, 1.0)
    columns = matters.topk(n * n, dim=1).indices
    return columns.gather(1, _augment(cost.gather(2, columns.unsqueeze(1).expand(-1, n, -1))))


def _augment(cost: Tensor) -> Tensor:
    batch, n, m = cost.shape
    col_of = torch.full((batch, n), _FREE, dtype=torch.int64, device=cost.device)
    row_of = torch.full((batch, m), _FREE, dtype=torch.int64, device=cost.device)
    price = cost.new_zeros(batch, m)
    for row in range(n):
        end, parent, price = _shortest_path(cost, row, row_of, price)
        _flip_path(row, end, parent, row_of, col_of)
    return col_of


def _shortest_path(cost: Tensor, row: int, row_of: Tensor, price: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Grow Dijkstra's tree from `row` to the nearest free column; `row` columns are taken, so `row + 1` steps do.

    Returns:
        The free column `(B, 1)`, the row each column was reached from `(B, m)`, and the new prices `(B, m)`.
    """
    distance = cost[:, row] - price
    parent = torch.full_like(row_of, row)
    open_distance = distance.clone()  # infinite where the column is in the tree
    nearest, column = open_distance.min(dim=1, keepdim=True)
    for _ in range(row):
        current = row_of.gather(1, column)  # (B, 1); free: the path has ended and nothing more may change
        active = current != _FREE
        current = current.clamp(min=0)
        closed = open_distance.scatter(1, column, torch.inf)
        reduced = cost.gather(1, current.unsqueeze(2).expand(-1, -1, cost.shape[2])).squeeze(1) - price
        reduced += nearest - reduced.gather(1, column)
        shorter = (reduced < closed) & (closed != torch.inf) & active
        distance = torch.where(shorter, reduced, distance)
        parent = torch.where(shorter, current, parent)
        open_distance = torch.where(active, torch.where(shorter, reduced, closed), open_distance)
        nearest, column = open_distance.min(dim=1, keepdim=True)
    in_tree = open_distance == torch.inf
    return column, parent, price - torch.where(in_tree, nearest - distance, 0.0)


def _flip_path(row: int, end: Tensor, parent: Tensor, row_of: Tensor, col_of: Tensor) -> None:
    """Match every row on the path to the column it leads to, from the free end back to `row`, in place."""
    column = end
    for _ in range(row + 1):
        current = parent.gather(1, column)
        previous = col_of.gather(1, current)
        row_of.scatter_(1, column, current)
        col_of.scatter_(1, current, column)
        column = torch.where(current == row, column, previous)
