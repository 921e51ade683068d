"""Average precision of predicted sets of objects: are they the right ones, and where they should be?

Predictions and targets are rows of 19 numbers: x, y and z scaled from [-3, 3] to [0, 1], scores of 2 sizes, 2
materials, 3 shapes and 8 colours, and 1 for an object or how sure the model is of one.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from math import inf
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from object_discovery.metrics.contingency import off_mps

THRESHOLDS = (inf, 1.0, 0.5, 0.25, 0.125)
"""Distances, in scene units, below which an object is found; as published."""
ATTRIBUTE_SIZES = (2, 2, 3, 8)
"""Columns of each attribute after the three coordinates: size, material, shape, colour."""
COLUMNS = 3 + sum(ATTRIBUTE_SIZES) + 1
"""Numbers in the row of an object."""
_SPAN = 6.0  # scene units that a coordinate's [0, 1] stands for


def average_precision(pred: Tensor, target: Tensor, thresholds: Sequence[float] = THRESHOLDS) -> Tensor:
    """Compute the average precision over all images at each distance.

    The predictions of all images are sorted by how sure they are. One finds an object if, of the true objects of its
    image that agree in all attributes, the nearest is nearer than the threshold and was not found before. Precision is
    made monotone from the right and integrated over recall. Predictions that are equally sure are added all at once,
    so that neither the order of images nor that of slots matters.

    Args:
        pred: Predicted rows, `(B, K, 19)`; the largest score of an attribute counts, the first of equal ones.
        target: True rows, `(B, O, 19)`; those whose last number is not 1 are filling.
        thresholds: T distances in scene units, 6 of which a coordinate's [0, 1] stands for; may be infinite.

    Returns:
        The average precision at each threshold, `(T,)`, float64 in [0, 1]; NaN if there is no true object.

    Raises:
        ValueError: If the shapes do not fit.

    Reference:
        Locatello et al. 2020, arXiv 2006.15055, section 4.2; Everingham et al., The Pascal Visual Object Classes
        Challenge, 2015.

    Example:
        >>> target = torch.zeros(1, 2, 19)
        >>> target[0, 0, [3, 5, 7, 10, 18]] = 1  # one object; the other row is filling
        >>> pred = target[:, :1].clone()
        >>> pred[0, 0, 0] = 0.1  # 0.6 away
        >>> average_precision(pred, target).tolist()
        [1.0, 1.0, 0.0, 0.0, 0.0]
    """
    hits = found_objects(pred, target, thresholds)
    return _integrate(off_mps(pred)[..., -1].flatten(), hits.flatten(0, 1), _is_real(off_mps(target)).sum())


def found_objects(pred: Tensor, target: Tensor, thresholds: Sequence[float] = THRESHOLDS) -> Tensor:
    """Tell which predictions find an object, see `average_precision`.

    Args:
        pred: Predicted rows, `(B, K, 19)`.
        target: True rows, `(B, O, 19)`.
        thresholds: T distances in scene units.

    Returns:
        True positives at each threshold, `(B, K, T)`, bool.

    Raises:
        ValueError: If the shapes do not fit.

    Example:
        >>> row = torch.zeros(1, 1, 19)
        >>> row[..., 18] = 1
        >>> found_objects(row.expand(1, 3, 19), row, [0.5])[0, :, 0].tolist()  # an object is found once
        [True, False, False]
    """
    _check_rows(pred, target)
    pred, target = off_mps(pred.detach()).to(torch.float64), off_mps(target).to(torch.float64)
    same = _is_real(target)[:, None] & (_attributes(pred)[:, :, None] == _attributes(target)[:, None]).all(-1)
    offset = _SPAN * (pred[:, :, None, :3] - target[:, None, :, :3])  # (B, K, O, 3)
    distance = offset.square().sum(-1).sqrt().masked_fill(~same, inf)
    filling = distance.new_full((*distance.shape[:2], 1), inf)  # so that there is a nearest where there is no object
    distance, nearest = torch.cat([distance, filling], dim=2).min(dim=2)  # (B, K)
    limits = torch.tensor(thresholds, dtype=torch.float64, device=distance.device)
    near = distance[..., None] < limits  # (B, K, T)
    sure = pred[..., -1]
    slot = torch.arange(pred.shape[1], device=pred.device)
    before = (sure[:, None] > sure[:, :, None]) | ((sure[:, None] == sure[:, :, None]) & (slot < slot[:, None]))
    rival = before & (nearest[:, None] == nearest[:, :, None])  # (B, K, K): the other comes first, for the same object
    return near & ~(rival[..., None] & near[:, None]).any(2)


class AveragePrecision(Metric):
    """Average precision over all images seen, see `average_precision`.

    Keeps 4 bytes and one for each threshold of every prediction: 1.4 MB for 15,000 images of 10. Added up over
    processes.

    Args:
        thresholds: Distances in scene units.
        kwargs: Arguments of `torchmetrics.Metric`.

    Example:
        >>> scores = AveragePrecision()
        >>> rows = torch.zeros(1, 1, 19)
        >>> rows[..., 18] = 1
        >>> scores.update(rows, rows)
        >>> {name: float(score) for name, score in scores.compute().items()}
        {'ap_inf': 1.0, 'ap_1': 1.0, 'ap_0.5': 1.0, 'ap_0.25': 1.0, 'ap_0.125': 1.0}
    """

    full_state_update = False
    is_differentiable = False
    higher_is_better = True
    sure: list[Tensor]
    found: list[Tensor]
    num_objects: Tensor

    def __init__(self, thresholds: Sequence[float] = THRESHOLDS, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.thresholds = tuple(thresholds)
        self.add_state("sure", [], dist_reduce_fx="cat")
        self.add_state("found", [], dist_reduce_fx="cat")
        self.add_state("num_objects", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, pred: Tensor, target: Tensor) -> None:
        """Add a batch of predicted rows `(B, K, 19)` and true rows `(B, O, 19)`."""
        found = found_objects(pred, target, self.thresholds)
        self.sure.append(pred[..., -1].detach().flatten().float())
        self.found.append(found.flatten(0, 1).to(pred.device, torch.uint8))
        self.num_objects = self.num_objects + _is_real(target).sum()

    def compute(self) -> dict[str, Tensor]:
        """Compute the average precision over the images seen so far.

        Returns:
            `ap_<threshold>` for each threshold, float64; NaN if there was no true object.
        """
        if not len(self.sure):
            scores = torch.full((len(self.thresholds),), torch.nan, dtype=torch.float64)
        else:
            found = off_mps(dim_zero_cat(self.found)).view(-1, len(self.thresholds))
            scores = _integrate(off_mps(dim_zero_cat(self.sure)), found, off_mps(self.num_objects))
        names = [f"ap_{threshold:g}" for threshold in self.thresholds]
        return dict(zip(names, scores.unbind(), strict=True))

    def _sync_dist(self, *args: Any, **kwargs: Any) -> None:
        if not len(self.sure):  # a process without images still takes part, with tensors of the same kind
            self.sure.append(torch.zeros(0, device=self.device))
            self.found.append(torch.zeros(0, len(self.thresholds), dtype=torch.uint8, device=self.device))
        super()._sync_dist(*args, **kwargs)

    def _apply(self, fn: Any, exclude_state: Sequence[str] = "") -> Any:
        def move(tensor: Tensor) -> Tensor:
            return tensor.to(fn(torch.empty(0, device=tensor.device)).device)

        return super()._apply(move, exclude_state)


def _check_rows(pred: Tensor, target: Tensor) -> None:
    for name, rows in (("pred", pred), ("target", target)):
        if rows.ndim != 3 or rows.shape[2] != COLUMNS or len(rows) != len(pred):
            expected = f"({len(pred)}, ..., {COLUMNS})"
            raise ValueError(f"Expected argument `{name}` to be of shape {expected}, but got {tuple(rows.shape)}")


def _is_real(target: Tensor) -> Tensor:
    """Tell objects from filling, `(B, O)`."""
    return target[..., -1] == 1


def _attributes(rows: Tensor) -> Tensor:
    """Name the attributes of objects `(B, N, 19)` by the places of their largest scores, `(B, N, 4)`."""
    ends = accumulate(ATTRIBUTE_SIZES, initial=3)
    return torch.stack([rows[..., start:end].argmax(-1) for start, end in pairwise(ends)], dim=-1)


def _integrate(sure: Tensor, found: Tensor, num_objects: Tensor) -> Tensor:
    """Integrate precision over recall, for N predictions, of which `found` `(N, T)` are true positives."""
    order = sure.argsort(descending=True, stable=True)
    sure, found = sure[order], found[order]
    last = torch.ones_like(sure, dtype=torch.bool)
    last[:-1] = sure[1:] != sure[:-1]  # of those that are equally sure
    rank = torch.arange(1, len(sure) + 1, dtype=torch.float64, device=sure.device)[last]
    total = found.cumsum(0, dtype=torch.float64)[last]
    precision = (total / rank[:, None]).flip(0).cummax(0).values.flip(0)
    recall = total / num_objects
    return (precision * recall.diff(dim=0, prepend=torch.zeros_like(recall[:1]))).sum(0)
