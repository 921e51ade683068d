"""Which slot is the background: a rule, since no model says so."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import one_hot

RULE = "the slot that covers most of the image's border; of equal ones the larger, then the lower"
"""The rule in words."""


def background_slot(labels: Tensor, num_slots: int) -> Tensor:
    """Find the slot that covers most of the pixels on the border of each image.

    Of slots that cover equally many, the one that covers more of the whole image is taken, then the lowest. If the
    background is spread over several slots, only this one is taken for it; an object that fills the image is, too.

    Args:
        labels: The slot of each pixel, `(B, H, W)`, integers from 0 to `num_slots` - 1.
        num_slots: K.

    Returns:
        A slot for each image, `(B,)`, int64.

    Raises:
        ValueError: If `labels` is not of shape `(B, H, W)`.

    Example:
        >>> import torch
        >>> background_slot(torch.tensor([[[1, 1, 1], [1, 0, 1], [1, 2, 1]]]), num_slots=3).tolist()
        [1]
    """
    if labels.ndim != 3:
        raise ValueError(f"Expected argument `labels` to be of shape (B, H, W), but got {tuple(labels.shape)}")
    hits = one_hot(labels.long(), num_slots)  # (B, H, W, K)
    area = hits.sum((1, 2))
    inner = hits[:, 1:-1, 1:-1].sum((1, 2))
    return ((area - inner) * (labels[0].numel() + 1) + area).argmax(1)
