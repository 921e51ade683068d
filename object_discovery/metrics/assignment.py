"""Linear sum assignment (Hungarian matching) of a batch of cost matrices, on their device."""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from object_discovery.metrics.contingency import move_off_mps

_FREE = -1


def linear_assignment(cost: Tensor, *, maximize: bool = False, batched: bool | None = None) -> Tensor:
    """Solve a batch of linear sum assignment problems exactly.

    On the CPU SciPy solves them one by one. On other devices all are solved together by shortest augmenting paths, row
    by row. The length of every loop then depends on the shape alone, so that there is no device synchronisation:
    n (n + 1) / 2 steps of O(B m), where n is the smaller and m the larger of N and M. Costs must be finite; this is not
    checked, since that would synchronise. A NaN or an infinity makes the matching of its matrix meaningless.

    Args:
        cost: Cost of matching each row with each column, `(B, N, M)`, any dtype; converted to float64.
        maximize: Maximise the total instead of minimising it.
        batched: Solve all problems together. None: on every device but the CPU.

    Returns:
        The column matched with each row, `(B, N)`, int64; -1 for unmatched rows if N > M.

    Raises:
        ValueError: If `cost` is not three-dimensional.

    Reference:
        Crouse, On Implementing 2D Rectangular Assignment Algorithms, IEEE TAES 2016 (both implementations).

    Example:
        >>> linear_assignment(torch.tensor([[[4.0, 1.0, 3.0], [2.0, 0.0, 5.0]]])).tolist()
        [[1, 0]]
    """
    if cost.ndim != 3:
        raise ValueError(f"Expected argument `cost` to be of shape (B, N, M), but got {tuple(cost.shape)}")
    device = cost.device
    if not (device.type != "cpu" if batched is None else batched):
        return _assign_with_scipy(cost.detach().double().cpu().nan_to_num(0, 0, 0), maximize).to(device)
    cost = move_off_mps(cost.detach()).to(torch.float64)
    cost = -cost if maximize else cost
    if cost.shape[1] <= cost.shape[2]:
        return _assign_rows(cost).to(device)
    row_of = _assign_rows(cost.transpose(1, 2).contiguous())  # (B, M): the row of each column
    columns = torch.arange(cost.shape[2], device=cost.device).expand_as(row_of)
    return row_of.new_full(cost.shape[:2], _FREE).scatter_(1, row_of, columns).to(device)


def _assign_with_scipy(cost: Tensor, maximize: bool) -> Tensor:
    assignment = np.full(cost.shape[:2], _FREE, np.int64)
    for result, matrix in zip(assignment, cost.numpy(), strict=True):
        rows, columns = linear_sum_assignment(matrix, maximize=maximize)
        result[rows] = columns
    return torch.from_numpy(assignment)


def _assign_rows(cost: Tensor) -> Tensor:
    """Assign n rows to m >= n columns.

    The n columns of lowest cost suffice for each row, since the other rows occupy n - 1: at most n * n columns in all.
    """
    n, m = cost.shape[1:]
    if m <= n * n:
        return _augment(cost)
    best = cost.topk(n, dim=2, largest=False).indices.flatten(1)  # (B, n * n), with repeats
    candidate = cost.new_zeros(len(cost), m).scatter_(1, best, 1.0)
    columns = candidate.topk(n * n, dim=1).indices
    return columns.gather(1, _augment(cost.gather(2, columns.unsqueeze(1).expand(-1, n, -1))))


def _augment(cost: Tensor) -> Tensor:
    """Add one row at a time to the matching, along its shortest augmenting path; return the column of each row."""
    batch, n, m = cost.shape
    col_of = torch.full((batch, n), _FREE, dtype=torch.int64, device=cost.device)
    row_of = torch.full((batch, m), _FREE, dtype=torch.int64, device=cost.device)
    dual = cost.new_zeros(batch, m)
    for row in range(n):
        end, parent, dual = _shortest_path(cost, row, row_of, dual)
        _flip_path(row, end, parent, row_of, col_of)
    return col_of


def _shortest_path(cost: Tensor, row: int, row_of: Tensor, dual: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Find the shortest path from `row` to a free column (Dijkstra); `row` columns are matched, so `row + 1` steps do.

    Returns:
        The free column `(B, 1)`, the row before each column on its path `(B, m)`, and the new dual variables of the
        columns `(B, m)`.
    """
    distance = cost[:, row] - dual
    parent = torch.full_like(row_of, row)
    open_distance = distance.clone()  # infinite for the columns in the tree
    nearest, column = open_distance.min(dim=1, keepdim=True)
    for _ in range(row):
        current = row_of.gather(1, column)  # (B, 1); free: the path is complete and must not change any more
        active = current != _FREE
        current = current.clamp(min=0)
        closed = open_distance.scatter(1, column, torch.inf)
        reduced = cost.gather(1, current.unsqueeze(2).expand(-1, -1, cost.shape[2])).squeeze(1) - dual
        reduced += nearest - reduced.gather(1, column)
        shorter = (reduced < closed) & (closed != torch.inf) & active
        distance = torch.where(shorter, reduced, distance)
        parent = torch.where(shorter, current, parent)
        open_distance = torch.where(active, torch.where(shorter, reduced, closed), open_distance)
        nearest, column = open_distance.min(dim=1, keepdim=True)
    in_tree = open_distance == torch.inf
    return column, parent, dual - torch.where(in_tree, nearest - distance, 0.0)


def _flip_path(row: int, end: Tensor, parent: Tensor, row_of: Tensor, col_of: Tensor) -> None:
    """Match each row on the path with the column after it, from the free column back to `row`, in place."""
    column = end
    for _ in range(row + 1):
        current = parent.gather(1, column)
        previous = col_of.gather(1, current)
        row_of.scatter_(1, column, current)
        col_of.scatter_(1, current, column)
        column = torch.where(current == row, column, previous)
