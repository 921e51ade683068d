"""How slots compete and are put together: without those that were left out of their image, which are all 0."""

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


def present_slots(slots: Tensor) -> Tensor:
    """Tell which slots `(..., D)` were not left out of their image, bool `(...)`.

    Example:
        >>> present_slots(torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
        tensor([ True, False])
    """
    return slots.detach().ne(0).any(-1)


def mask_inactive_slots(masks: Tensor, active: Tensor | None) -> Tensor:
    """Set the masks of inactive slots to 0 and renormalise those of the others.

    Args:
        masks: `(B, K, N)`, which sum to 1 over the slots.
        active: Which slots are active, bool `(B, K)`. None: all.

    Returns:
        Masks of the same shape, which sum to 1 over the active slots.

    Example:
        >>> mask_inactive_slots(torch.full((1, 2, 1), 0.5), torch.tensor([[True, False]])).flatten().tolist()
        [1.0, 0.0]
    """
    if active is None:
        return masks
    masks = masks * active[..., None]
    return masks / masks.sum(1, keepdim=True).clamp_min(1e-6)


def blend_slots(painted: Tensor, present: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Put together what slots paint.

    Args:
        painted: Colours and the logit of the mask of each slot, `(B, K, 4, H, W)`.
        present: Which slots have a mask, bool `(B, K)`; at least one of each image. None: all.

    Returns:
        The image `(B, 3, H, W)`, the slots' own images `(B, K, 3, H, W)` and their masks `(B, K, H, W)`, which sum to 1
        over the slots. All float32.

    Example:
        >>> image, slot_images, masks = blend_slots(torch.zeros(1, 2, 4, 8, 8))
        >>> image.shape, slot_images.shape, float(masks[0, 0, 0, 0])
        (torch.Size([1, 3, 8, 8]), torch.Size([1, 2, 3, 8, 8]), 0.5)
    """
    painted = painted.float()
    there = None if present is None else present[:, :, None, None]
    slot_images, masks = painted[:, :, :3], slot_softmax(painted[:, :, 3], 1, there)
    return (slot_images * masks[:, :, None]).sum(1), slot_images, masks
