"""How slots compete: a softmax over those that were not left out."""

from __future__ import annotations

import torch
from torch import Tensor


def slot_softmax(logits: Tensor, dim: int, present: Tensor | None = None) -> Tensor:
    """Take the softmax over the slots that compete.

    Args:
        logits: Any shape; slots lie along `dim`.
        dim: The dimension of the slots.
        present: Which slots compete, bool, of a shape that broadcasts to that of `logits`; at least one. None: all.

    Returns:
        Shares of the shape of `logits`, which sum to 1 along `dim`, float32; 0 for slots that do not compete.

    Example:
        >>> slot_softmax(torch.zeros(3), 0, torch.tensor([True, False, True]))
        tensor([0.5000, 0.0000, 0.5000])
    """
    logits = logits.float()
    return (logits if present is None else logits.masked_fill(~present, -torch.inf)).softmax(dim)
