"""Patch-wise MLP decoder of DINOSAUR."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from object_discovery.layers.compositing import slot_softmax
from object_discovery.models.dinosaur.decoded import Decoded


class PatchMLPDecoder(nn.Module):
    """Patch-wise MLP decoder (Seitzer et al. 2023).

    A slot plus a learned position embedding passes through three hidden layers to F features and an alpha logit, and
    the features are averaged with the softmax of the alphas over the slots. Linear parts are computed once: the first
    layer for slots and positions separately, and the last layer on the averaged hidden features of a patch. The result
    is equal up to rounding.

    Shapes: B images, K slots, D slot size, N patches, F feature size, k decoded slots per patch.

    Args:
        slot_size: D.
        num_patches: N.
        feature_size: F.
        hidden_size: Size of the hidden layers.
        top_k: Decode at each patch only the k slots with the most attention (Didolkar et al. 2024), K / k times as
            fast. None, or at least K: decode all.

    Raises:
        ValueError: If `top_k` is below 1.

    Reference:
        Seitzer et al. 2023, appendix; Didolkar et al., On the Transfer of Object-Centric Representation Learning, 2024,
        arXiv 2408.09162 (top-k decoding).

    Example:
        >>> decoder = PatchMLPDecoder(slot_size=8, num_patches=4, feature_size=6, hidden_size=16)
        >>> decoded = decoder(torch.zeros(2, 3, 8))
        >>> decoded.prediction.shape, decoded.masks.shape  # masks sum to 1 over the slots
        (torch.Size([2, 4, 6]), torch.Size([2, 3, 4]))
    """

    def __init__(
        self, slot_size: int, num_patches: int, feature_size: int, hidden_size: int = 1024, top_k: int | None = None
    ) -> None:
        super().__init__()
        if top_k is not None and top_k < 1:
            raise ValueError(f"Expected argument `top_k` to be at least 1 or None, but got {top_k}")
        self.top_k = top_k
        self.positions = nn.Parameter(torch.empty(num_patches, slot_size).normal_(0, 0.02))
        self.first = nn.Linear(slot_size, hidden_size)
        self.second = nn.Linear(hidden_size, hidden_size)
        self.third = nn.Linear(hidden_size, hidden_size)
        self.last = nn.Linear(hidden_size, feature_size + 1)
        for layer in (self.first, self.second, self.third, self.last):
            nn.init.zeros_(layer.bias)

    def forward(
        self,
        slots: Tensor,
        *,
        attention: Tensor | None = None,
        features: Tensor | None = None,
        active: Tensor | None = None,
        with_masks: bool = True,
    ) -> Decoded:
        """Decode slots.

        Args:
            slots: `(B, K, D)`.
            attention: Attention of the slots, `(B, K, N)`, by which the top k of each patch are selected; needed with
                `top_k`.
            features: Unused.
            active: Which slots have a mask, bool `(B, K)`; at least one of each image. None: all.
            with_masks: Return the masks, which cost zeros here.
        """
        hidden, indices = self._hidden(slots, attention)
        weights = self._weights(hidden, indices, active)
        averaged = (weights.to(hidden.dtype)[:, :, None] @ hidden).squeeze(2)
        prediction = F.linear(averaged, self.last.weight[:-1], self.last.bias[:-1])
        return Decoded(prediction, self._scatter(weights, indices, slots.shape[1]))

    def masks(
        self,
        slots: Tensor,
        *,
        attention: Tensor | None = None,
        features: Tensor | None = None,
        active: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Compute the masks that `forward` returns without the prediction, and None for slot images."""
        hidden, indices = self._hidden(slots, attention)
        return self._scatter(self._weights(hidden, indices, active), indices, slots.shape[1]), None

    @staticmethod
    def target(images: Tensor | None, features: Tensor) -> Tensor:
        """Return what is to be predicted: the features."""
        return features

    def _hidden(self, slots: Tensor, attention: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Compute the last hidden features `(B, N, k, H)` and the indices of the decoded slots `(B, N, k)`."""
        of_slots = F.linear(slots, self.first.weight)  # (B, K, H)
        of_positions = self.first(self.positions)[:, None]  # (N, 1, H)
        indices = None
        if self.top_k is None or self.top_k >= slots.shape[1]:
            hidden = of_slots[:, None] + of_positions
        else:
            if attention is None:
                raise ValueError("Expected argument `attention` to select the top k slots by, but got None")
            indices = attention.detach().topk(self.top_k, dim=1).indices.transpose(1, 2)  # (B, N, k)
            # A product with one-hot rows instead of an index, as its gradient is faster.
            rows = F.one_hot(indices, slots.shape[1]).to(of_slots.dtype).flatten(1, 2)
            hidden = rearrange(rows @ of_slots, "b (n k) h -> b n k h", k=self.top_k) + of_positions
        return self.third(self.second(hidden.relu()).relu()).relu(), indices

    def _weights(self, hidden: Tensor, indices: Tensor | None, active: Tensor | None) -> Tensor:
        """Compute the masks of the decoded slots, `(B, N, k)`."""
        alpha = F.linear(hidden, self.last.weight[-1:], self.last.bias[-1:]).squeeze(-1)
        active_here = None if active is None else active[:, None].expand(-1, alpha.shape[1], -1)
        if active_here is not None and indices is not None:
            active_here = active_here.gather(2, indices)
        return slot_softmax(alpha, 2, active_here)

    @staticmethod
    def _scatter(weights: Tensor, indices: Tensor | None, num_slots: int) -> Tensor:
        """Scatter the masks of the decoded slots `(B, N, k)` to all slots `(B, K, N)`; the others are 0."""
        if indices is not None:
            zeros = weights.new_zeros(*weights.shape[:2], num_slots)
            weights = zeros.scatter(2, indices, weights)
        return weights.transpose(1, 2)
