"""Masked softmax over slots and alpha compositing. Inactive slots are zero vectors, and their masks are 0."""

from __future__ import annotations

import torch
from torch import Tensor


def slot_softmax(logits: Tensor, dim: int, active: Tensor | None = None) -> Tensor:
    """Compute the softmax over the active slots.

    Args:
        logits: Any shape; slots lie along `dim`.
        dim: The dimension of the slots.
        active: Which slots are active, bool, broadcastable to the shape of `logits`; at least one. None: all.

    Returns:
        Probabilities, float32, of the shape of `logits`, which sum to 1 along `dim`; 0 for inactive slots.

    Example:
        >>> slot_softmax(torch.zeros(3), 0, torch.tensor([True, False, True]))
        tensor([0.5000, 0.0000, 0.5000])
    """
    logits = logits.float()
    return (logits if active is None else logits.masked_fill(~active, -torch.inf)).softmax(dim)


def active_mask(slots: Tensor) -> Tensor:
    """Return which slots `(..., D)` are active, bool `(...)`: those that are not zero vectors.

    Example:
        >>> active_mask(torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
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


def pixel_entropy(masks: Tensor) -> Tensor:
    """Compute the entropy of the masks over the slots, with finite gradients.

    Args:
        masks: `(B, K, H, W)`, which sum to 1 over the slots.

    Returns:
        Entropy of each pixel in nats, `(B, H, W)`.

    Example:
        >>> pixel_entropy(torch.tensor([0.5, 0.5, 0.0]).view(1, 3, 1, 1))
        tensor([[[0.6931]]])
    """
    return -(masks * masks.clamp_min(1e-12).log()).sum(1)


def alpha_composite(decoded: Tensor, active: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Composite the RGB images of slots by the softmax of their alpha logits.

    Args:
        decoded: RGB and alpha logits of each slot, `(B, K, 4, H, W)`.
        active: Which slots are active, bool `(B, K)`; at least one of each image. None: all.

    Returns:
        Composited image `(B, 3, H, W)`, slot images `(B, K, 3, H, W)` and masks `(B, K, H, W)`, which sum to 1 over the
        slots. All float32.

    Example:
        >>> image, slot_images, masks = alpha_composite(torch.zeros(1, 2, 4, 8, 8))
        >>> image.shape, slot_images.shape, float(masks[0, 0, 0, 0])
        (torch.Size([1, 3, 8, 8]), torch.Size([1, 2, 3, 8, 8]), 0.5)
    """
    decoded = decoded.float()
    mask = None if active is None else active[:, :, None, None]
    slot_images, masks = decoded[:, :, :3], slot_softmax(decoded[:, :, 3], 1, mask)
    return (slot_images * masks[:, :, None]).sum(1), slot_images, masks
