"""Contracts between data, models and metrics: batches, label maps and the output of models."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from torch import Tensor

IGNORED = 255
"""Value of ignored pixels in label maps: they belong to nothing and are never scored."""
Batch: TypeAlias = dict[str, Tensor]
"""`image` uint8 `(B, 3, H, W)` and, where known, `mask` uint8 `(B, H, W)`, a label map: 0 background, 255 ignored;
further label maps and targets, see `data.readers.source.SceneSource`."""


class Discovery(NamedTuple):
    """Output of every model: slots and masks of B images of H x W pixels, in K slots.

    Example:
        >>> import torch
        >>> discovery = Discovery(slots=torch.zeros(1, 2, 8), masks=torch.tensor([[[[0.9, 0.2]], [[0.1, 0.8]]]]))
        >>> discovery.labels
        tensor([[[0, 1]]])
    """

    slots: Tensor
    """Slots, `(B, K, D)`; zero vectors for inactive slots, see `cluster_min_gain` and `prune_gain`."""
    masks: Tensor
    """Soft masks at image size, `(B, K, H, W)`, float32, by the model's `mask_source`; they sum to 1 over the slots."""
    image: Tensor | None = None
    """Reconstruction, `(B, 3, H, W)`, in [0, 1] up to overshoot of the decoder."""
    slot_images: Tensor | None = None
    """Reconstruction of each slot, `(B, K, 3, H, W)`; None for models without one."""
    attention: Tensor | None = None
    """Attention over the grid of features, `(B, K, h, w)`, which sums to 1 over the slots."""
    decoder_masks: Tensor | None = None
    """Masks of a decoder of RGB and alpha, `(B, K, H, W)`, by which `image` is composited of `slot_images`; None for
    models without one."""
    posterior_masks: Tensor | None = None
    """Posterior of the slots given the pixels, `(B, K, H, W)`, see `layers.mixture`; None for models without one."""
    cluster_masks: Tensor | None = None
    """Clusters that the slots were initialised by, `(B, K, H, W)`, see `cluster_init`: what is found without training.
    They do not sum to 1. None without clusters."""

    def apply(self, function: Callable[[Tensor], Tensor]) -> Discovery:
        """Apply a function to each tensor; None stays None."""
        return Discovery._make(None if value is None else function(value) for value in self)

    @property
    def labels(self) -> Tensor:
        """Argmax of the masks over slots, `(B, H, W)`, int64; the lowest index of ties."""
        return self.masks.max(1).indices  # several times as fast as `argmax` on the CPU
