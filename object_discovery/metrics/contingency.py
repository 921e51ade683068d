"""Contingency table of two label maps, from which all segmentation metrics are computed."""

from __future__ import annotations

import torch
from torch import Tensor

from object_discovery.discovery import IGNORED


def labels_from_masks(masks: Tensor) -> Tensor:
    """Convert masks to a label map by the argmax over slots; ties go to the lowest slot.

    Args:
        masks: Soft or hard masks, `(B, K, H, W)`, with at most 255 slots.

    Returns:
        Label maps, `(B, H, W)`, uint8.

    Raises:
        ValueError: If `masks` is not four-dimensional or has more than 255 slots.

    Example:
        >>> labels_from_masks(torch.tensor([[[[0.9, 0.5, 0.2]], [[0.1, 0.5, 0.8]]]])).tolist()
        [[[0, 0, 1]]]
    """
    if masks.ndim != 4 or masks.shape[1] > IGNORED:
        expected = "to be of shape (B, K, H, W) with K <= 255"
        raise ValueError(f"Expected argument `masks` {expected}, but got {tuple(masks.shape)}")
    return masks.max(dim=1).indices.to(torch.uint8)  # on the CPU five times as fast as argmax, with equal results


def contingency_table(pred: Tensor, target: Tensor, *, num_slots: int | None = None) -> Tensor:
    """Count the pixels of each pair of a predicted and a true label, for each image.

    There is no device synchronisation if `num_slots` is given. A label out of range raises an index error on the CPU
    and a device-side assertion on a GPU.

    Args:
        pred: Predicted labels, `(B, ...)`, integers from 0 to P - 1.
        target: True labels, `(B, ...)`, integers from 0 to 255, in any order and with gaps; 255 is ignored.
        num_slots: Number of predicted labels, P. None: the maximum of `pred` plus one (waits for the GPU).

    Returns:
        Pixel counts, `(B, P, 255)`, int64; column t counts the pixels of true label t.

    Raises:
        ValueError: If the shapes differ, a label map is not of integers, or `num_slots` is below 1.

    Example:
        >>> pred, target = torch.tensor([[0, 0, 1, 1]]), torch.tensor([[0, 7, 7, 255]])
        >>> contingency_table(pred, target)[0, :, [0, 7]].tolist()
        [[1, 1], [0, 1]]
    """
    _check_labels(pred, target, num_slots)
    pred, target = pred.flatten(1), target.flatten(1)
    if num_slots is None:
        num_slots = int(pred.max()) + 1 if pred.numel() else 1
    columns = IGNORED + 1
    index = pred.to(torch.int32).mul_(columns).add_(target).to(torch.int64)  # int32 halves the memory traffic
    table = torch.zeros(len(pred), num_slots * columns, dtype=torch.int32, device=pred.device)
    table.scatter_add_(1, index, torch.ones_like(index, dtype=torch.int32))
    return move_off_mps(table).view(len(pred), num_slots, columns)[:, :, :IGNORED].to(torch.int64)


def move_off_mps(tensor: Tensor) -> Tensor:
    """Move a tensor from Apple's MPS, which has no float64, to the CPU; return tensors of other devices as they are."""
    return tensor.cpu() if tensor.device.type == "mps" else tensor


def _check_labels(pred: Tensor, target: Tensor, num_slots: int | None) -> None:
    if pred.shape != target.shape or pred.ndim < 2:
        expected = f"to have one shape (B, ...), but got {tuple(pred.shape)} and {tuple(target.shape)}"
        raise ValueError(f"Expected arguments `pred` and `target` {expected}")
    for name, labels in (("pred", pred), ("target", target)):
        if labels.is_floating_point() or labels.is_complex():
            hint = "convert soft masks by `labels_from_masks`"
            raise ValueError(f"Expected argument `{name}` to be integer labels, but got {labels.dtype}; {hint}")
    if num_slots is not None and num_slots < 1:
        raise ValueError(f"Expected argument `num_slots` to be at least 1, but got {num_slots}")


def iou_from_table(table: Tensor) -> Tensor:
    """Compute the IoU of each predicted mask with each true mask.

    Args:
        table: Output of `contingency_table`, `(B, P, T)`, int64.

    Returns:
        IoUs, `(B, P, T)`, float64; 0 where a mask is empty.
    """
    union = table.sum(2, keepdim=True) + table.sum(1, keepdim=True) - table
    return table.to(torch.float64) / union.clamp(min=1).to(torch.float64)
