"""Average precision (AP) of set prediction at distance thresholds (Locatello et al. 2020).

Predictions and targets are rows of 19 numbers: coordinates x, y and z scaled from [-3, 3] to [0, 1], scores of 2 sizes,
2 materials, 3 shapes and 8 colours (one-hot in targets), and the confidence that there is an object (1 in targets).
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

from object_discovery.metrics.contingency import move_off_mps

THRESHOLDS = (inf, 1.0, 0.5, 0.25, 0.125)
"""Distance thresholds of the published metric, in scene units."""
ATTRIBUTE_SIZES = (2, 2, 3, 8)
"""Number of values of each attribute, in the order of the columns: size, material, shape, colour."""
COLUMNS = 3 + sum(ATTRIBUTE_SIZES) + 1
"""Number of columns of a row."""
_SPAN = 6.0  # range of a coordinate in scene units


def average_precision(pred: Tensor, target: Tensor, thresholds: Sequence[float] = THRESHOLDS) -> Tensor:
    """Compute the average precision over all images at each distance threshold.

    The predictions of all images are sorted by descending confidence. A prediction is a true positive if, of the true
    objects of its image with the same attributes, the nearest is nearer than the threshold and not yet matched. The
    precision is replaced by its maximum at equal or higher recall and integrated over recall. Predictions of equal
    confidence enter the curve together, so that the order of images and slots does not matter.

    Args:
        pred: Predicted rows, `(B, K, 19)`; the value of an attribute is the argmax of its scores.
        target: True rows, `(B, O, 19)`; rows whose last column is not 1 are padding.
        thresholds: T distances in scene units (a coordinate in [0, 1] spans 6 units); may be infinite.

    Returns:
        Average precision at each threshold, `(T,)`, float64 in [0, 1]; NaN if there is no true object.

    Raises:
        ValueError: If `pred` or `target` has another shape.

    Reference:
        Locatello et al., Object-Centric Learning with Slot Attention, 2020 (arXiv:2006.15055), section 4.2; Everingham
        et al., The Pascal Visual Object Classes Challenge, 2015.

    Example:
        >>> target = torch.zeros(1, 2, 19)
        >>> target[0, 0, [3, 5, 7, 10, 18]] = 1  # one object; the other row is padding
        >>> pred = target[:, :1].clone()
        >>> pred[0, 0, 0] = 0.1  # 0.6 scene units away
        >>> average_precision(pred, target).tolist()
        [1.0, 1.0, 0.0, 0.0, 0.0]
    """
    matched = true_positives(pred, target, thresholds)
    confidence, num_objects = move_off_mps(pred)[..., -1], _is_object(move_off_mps(target)).sum()
    return _area_under_curve(confidence.flatten(), matched.flatten(0, 1), num_objects)


def true_positives(pred: Tensor, target: Tensor, thresholds: Sequence[float] = THRESHOLDS) -> Tensor:
    """Match predictions to true objects, see `average_precision`.

    Args:
        pred: Predicted rows, `(B, K, 19)`.
        target: True rows, `(B, O, 19)`.
        thresholds: T distances in scene units.

    Returns:
        Whether each prediction is a true positive at each threshold, `(B, K, T)`, bool.

    Raises:
        ValueError: If `pred` or `target` has another shape.

    Example:
        >>> row = torch.zeros(1, 1, 19)
        >>> row[..., 18] = 1
        >>> true_positives(row.expand(1, 3, 19), row, [0.5])[0, :, 0].tolist()  # an object is matched once
        [True, False, False]
    """
    _check_rows(pred, target)
    pred, target = move_off_mps(pred.detach()).to(torch.float64), move_off_mps(target).to(torch.float64)
    same = _is_object(target)[:, None] & (_attributes(pred)[:, :, None] == _attributes(target)[:, None]).all(-1)
    offset = _SPAN * (pred[:, :, None, :3] - target[:, None, :, :3])  # (B, K, O, 3)
    distance = offset.square().sum(-1).sqrt().masked_fill(~same, inf)
    padding = distance.new_full((*distance.shape[:2], 1), inf)  # so that there is a minimum if O is 0
    distance, nearest = torch.cat([distance, padding], dim=2).min(dim=2)  # (B, K)
    near = distance[..., None] < torch.tensor(thresholds, dtype=torch.float64, device=distance.device)  # (B, K, T)
    confidence = pred[..., -1]
    slot = torch.arange(pred.shape[1], device=pred.device)
    tied = (confidence[:, None] == confidence[:, :, None]) & (slot < slot[:, None])
    earlier = (confidence[:, None] > confidence[:, :, None]) | tied  # (B, K, K): slot j is matched before slot i
    rival = earlier & (nearest[:, None] == nearest[:, :, None])  # and has the same nearest object
    return near & ~(rival[..., None] & near[:, None]).any(2)


class AveragePrecision(Metric):
    """Average precision over all images so far, see `average_precision`.

    For each prediction the state holds 4 bytes and one byte per threshold: 1.4 MB for 15,000 images of 10 predictions.
    It is concatenated over processes.

    Args:
        thresholds: Distance thresholds in scene units.
        kwargs: Arguments of `torchmetrics.Metric`.

    Example:
        >>> metric = AveragePrecision()
        >>> rows = torch.zeros(1, 1, 19)
        >>> rows[..., 18] = 1
        >>> metric.update(rows, rows)
        >>> {name: float(score) for name, score in metric.compute().items()}
        {'ap_inf': 1.0, 'ap_1': 1.0, 'ap_0.5': 1.0, 'ap_0.25': 1.0, 'ap_0.125': 1.0}
    """

    full_state_update = False
    is_differentiable = False
    higher_is_better = True
    confidence: list[Tensor]
    matched: list[Tensor]
    num_objects: Tensor

    def __init__(self, thresholds: Sequence[float] = THRESHOLDS, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.thresholds = tuple(thresholds)
        self.add_state("confidence", [], dist_reduce_fx="cat")
        self.add_state("matched", [], dist_reduce_fx="cat")
        self.add_state("num_objects", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, pred: Tensor, target: Tensor) -> None:
        """Add a batch of predicted rows `(B, K, 19)` and true rows `(B, O, 19)`."""
        matched = true_positives(pred, target, self.thresholds)
        self.confidence.append(pred[..., -1].detach().flatten().float())
        self.matched.append(matched.flatten(0, 1).to(pred.device, torch.uint8))
        self.num_objects = self.num_objects + _is_object(target).sum()

    def compute(self) -> dict[str, Tensor]:
        """Compute the average precision over all images so far.

        Returns:
            `ap_<threshold>` for each threshold, float64; NaN if there is no true object.
        """
        if not len(self.confidence):
            scores = torch.full((len(self.thresholds),), torch.nan, dtype=torch.float64)
        else:
            matched = move_off_mps(dim_zero_cat(self.matched)).view(-1, len(self.thresholds))
            confidence = move_off_mps(dim_zero_cat(self.confidence))
            scores = _area_under_curve(confidence, matched, move_off_mps(self.num_objects))
        names = [f"ap_{threshold:g}" for threshold in self.thresholds]
        return dict(zip(names, scores.unbind(), strict=True))

    def _sync_dist(self, *args: Any, **kwargs: Any) -> None:
        if not len(self.confidence):  # a process without images must still take part, with tensors of the same dtype
            self.confidence.append(torch.zeros(0, device=self.device))
            self.matched.append(torch.zeros(0, len(self.thresholds), dtype=torch.uint8, device=self.device))
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


def _is_object(target: Tensor) -> Tensor:
    """Tell rows of objects from padding, `(B, O)`."""
    return target[..., -1] == 1


def _attributes(rows: Tensor) -> Tensor:
    """Decode the attributes of rows `(B, N, 19)` by the argmax of their scores, `(B, N, 4)`."""
    ends = accumulate(ATTRIBUTE_SIZES, initial=3)
    return torch.stack([rows[..., start:end].argmax(-1) for start, end in pairwise(ends)], dim=-1)


def _area_under_curve(confidence: Tensor, matched: Tensor, num_objects: Tensor) -> Tensor:
    """Integrate precision over recall for N predictions, given which are true positives, `(N, T)`."""
    order = confidence.argsort(descending=True, stable=True)
    confidence, matched = confidence[order], matched[order]
    last = torch.ones_like(confidence, dtype=torch.bool)
    last[:-1] = confidence[1:] != confidence[:-1]  # the last of each group of equal confidence
    rank = torch.arange(1, len(confidence) + 1, dtype=torch.float64, device=confidence.device)[last]
    total = matched.cumsum(0, dtype=torch.float64)[last]
    precision = (total / rank[:, None]).flip(0).cummax(0).values.flip(0)
    recall = total / num_objects
    return (precision * recall.diff(dim=0, prepend=torch.zeros_like(recall[:1]))).sum(0)
