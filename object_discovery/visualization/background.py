"""Rule by which one slot of each image is taken for the background, since most models have no background slot."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import one_hot

RULE = "the slot that covers most of the image's border; ties go to the larger area, then to the lower index"
"""The rule in words."""


def background_slot(labels: Tensor, num_slots: int) -> Tensor:
    """Return the slot that covers the most pixels on the border of each image.

    Ties go to the slot with the larger area, then to the lower index. Limits of the rule: of a background split over
    several slots it returns one only, and it takes an object that fills the image for the background.

    Args:
        labels: Slot of each pixel, `(B, H, W)`, integers from 0 to `num_slots` - 1.
        num_slots: Number of slots, K.

    Returns:
        Index of the background slot of each image, `(B,)`, int64.

    Raises:
        ValueError: If `labels` is not of shape `(B, H, W)`.

    Example:
        >>> import torch
        >>> background_slot(torch.tensor([[[1, 1, 1], [1, 0, 1], [1, 2, 1]]]), num_slots=3).tolist()
        [1]
    """
    if labels.ndim != 3:
        raise ValueError(f"Expected argument `labels` to be of shape (B, H, W), but got {tuple(labels.shape)}")
    masks = one_hot(labels.long(), num_slots)  # (B, H, W, K)
    area = masks.sum((1, 2))
    border = area - masks[:, 1:-1, 1:-1].sum((1, 2))
    return (border * (labels[0].numel() + 1) + area).argmax(1)
