"""Diagnostics of slot collapse: active slots, duplicated slots, and the entropy of the masks."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from object_discovery.metrics.contingency import labels_from_masks


def active_slots(masks: Tensor, *, min_share: float = 0.001) -> Tensor:
    """Count the slots that own a part of the image.

    A slot is active if its mask is the largest at more than `min_share` of the pixels; ties go to the lowest slot.

    Args:
        masks: Soft masks, `(B, K, H, W)`.
        min_share: Share of the pixels that must be exceeded, in [0, 1).

    Returns:
        Number of active slots, 0 to K, `(B,)`, int64.

    Raises:
        ValueError: If `masks` is not four-dimensional, or `min_share` is out of range.

    Example:
        >>> active_slots(torch.tensor([[[[0.9, 0.8]], [[0.1, 0.2]]]])).tolist()
        [1]
    """
    if not 0 <= min_share < 1:
        raise ValueError(f"Expected argument `min_share` to be at least 0 and below 1, but got {min_share}")
    labels = labels_from_masks(masks).flatten(1)
    slots = torch.arange(masks.shape[1], device=masks.device, dtype=labels.dtype)
    pixels = torch.stack([(labels == slot).sum(1) for slot in slots], dim=1)  # (B, K)
    return (pixels > min_share * labels.shape[1]).sum(1)


def duplicated_slots(slots: Tensor, *, threshold: float = 0.95) -> Tensor:
    """Count the slots that duplicate another slot.

    A slot is a duplicate if its cosine similarity to any slot of lower index exceeds `threshold`. Of K equal slots,
    K - 1 are duplicates.

    Args:
        slots: Slot vectors, `(B, K, D)`.
        threshold: Cosine similarity that must be exceeded.

    Returns:
        Number of duplicates, 0 to K - 1, `(B,)`, int64.

    Raises:
        ValueError: If `slots` is not three-dimensional.

    Example:
        >>> duplicated_slots(torch.tensor([[[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]]])).tolist()
        [1]
    """
    if slots.ndim != 3:
        raise ValueError(f"Expected argument `slots` to be of shape (B, K, D), but got {tuple(slots.shape)}")
    slots = F.normalize(slots.detach().to(torch.float32), dim=2)
    cosine = torch.stack([(slots * slots[:, k : k + 1]).sum(2) for k in range(slots.shape[1])], dim=1)  # (B, K, K)
    return (cosine > threshold).tril(-1).any(2).sum(1)


def mask_entropy(masks: Tensor) -> Tensor:
    """Compute the normalised entropy of the masks over slots, averaged over pixels.

    The entropy of each pixel is divided by its maximum, log K. 0: each pixel is assigned to one slot; 1: every pixel is
    shared equally by all slots.

    Args:
        masks: Soft masks, `(B, K, H, W)`, that sum to 1 over K.

    Returns:
        Entropy in [0, 1], `(B,)`, float32; 0 for a single slot.

    Raises:
        ValueError: If `masks` is not four-dimensional.

    Example:
        >>> mask_entropy(torch.full((1, 4, 2, 2), 0.25)).tolist()
        [1.0]
    """
    if masks.ndim != 4:
        raise ValueError(f"Expected argument `masks` to be of shape (B, K, H, W), but got {tuple(masks.shape)}")
    entropy: Tensor = torch.special.entr(masks.detach().to(torch.float32)).sum(1)
    return entropy.mean((1, 2)) / math.log(max(masks.shape[1], 2))
