"""Autoregressive transformer decoder of DINOSAUR."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from object_discovery.layers.compositing import mask_inactive_slots
from object_discovery.models.dinosaur.decoded import Decoded
from object_discovery.models.dinosaur.orders import patch_orders


class Attention(nn.Module):
    """Multi-head attention, initialised as `torch.nn.MultiheadAttention`.

    Args:
        size: Embedding dimension, F.
        num_heads: Attention heads, a divisor of `size`.
    """

    def __init__(self, size: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.to_query = nn.Linear(size, size)
        self.to_key_value = nn.Linear(size, 2 * size)
        self.to_output = nn.Linear(size, size)
        bound = (6 / (4 * size)) ** 0.5  # Glorot uniform of the three projections as one matrix, as in PyTorch
        for layer in (self.to_query, self.to_key_value):
            nn.init.uniform_(layer.weight, -bound, bound)
        for layer in (self.to_query, self.to_key_value, self.to_output):
            nn.init.zeros_(layer.bias)

    def forward(self, inputs: Tensor, memory: Tensor, causal: bool = False) -> Tensor:
        """Compute attention of inputs `(B, L, F)` to memory `(B, M, F)`, optionally with a causal mask."""
        key, value = self._keys_values(memory)
        heads = F.scaled_dot_product_attention(self._split(self.to_query(inputs)), key, value, is_causal=causal)
        return self.to_output(rearrange(heads, "b h l d -> b l (h d)"))  # type: ignore[no-any-return]

    def weights(self, inputs: Tensor, memory: Tensor) -> Tensor:
        """Compute the attention weights, averaged over heads: `(B, L, M)`, float32."""
        queries, (keys, _) = self._split(self.to_query(inputs)), self._keys_values(memory)
        logits = queries.float() @ keys.float().transpose(-1, -2) * queries.shape[-1] ** -0.5
        weights: Tensor = logits.softmax(-1).mean(1)
        return weights

    def _keys_values(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        keys, values = self.to_key_value(memory).chunk(2, -1)
        return self._split(keys), self._split(values)

    def _split(self, features: Tensor) -> Tensor:
        return rearrange(features, "b l (h d) -> b h l d", h=self.num_heads)


class DecoderBlock(nn.Module):
    """Pre-norm transformer decoder block: causal self-attention, cross-attention to the slots, MLP.

    Args:
        size: F.
        num_heads: Attention heads.
    """

    def __init__(self, size: int, num_heads: int) -> None:
        super().__init__()
        self.norm_self, self.norm_cross, self.norm_mlp = (nn.LayerNorm(size) for _ in range(3))
        self.self_attention, self.cross_attention = (Attention(size, num_heads) for _ in range(2))
        self.mlp = nn.Sequential(nn.Linear(size, 4 * size), nn.ReLU(), nn.Linear(4 * size, size))

    def forward(self, inputs: Tensor, slots: Tensor) -> Tensor:
        """Transform patches `(B, N, F)` with slots `(B, K, F)`."""
        features = self.attend_to_patches(inputs)
        features = features + self.cross_attention(self.norm_cross(features), slots)
        return features + self.mlp(self.norm_mlp(features))  # type: ignore[no-any-return]

    def attend_to_patches(self, inputs: Tensor) -> Tensor:
        """Apply self-attention with its residual connection."""
        normed = self.norm_self(inputs)
        return inputs + self.self_attention(normed, normed, causal=True)  # type: ignore[no-any-return]


class PatchTransformerDecoder(nn.Module):
    """Transformer decoder that predicts the features of each patch from the previous patches and the slots.

    Trained with teacher forcing (Seitzer et al. 2023).

    Shapes: B images, K slots, D slot size, N = h w patches, F feature size.

    Args:
        slot_size: D.
        grid: Rows h and columns w of the patches.
        feature_size: F.
        num_blocks: Number of blocks.
        num_heads: Attention heads, a divisor of F.
        permuted: In training, predict the patches of each image in one of the nine `patch_orders` at random, each with
            its own begin token (SPOT).

    Raises:
        ValueError: If `num_heads` does not divide F.

    Reference:
        Seitzer et al. 2023, appendix; Kakogeorgiou et al., SPOT, CVPR 2024, arXiv 2312.00648.

    Example:
        >>> decoder = PatchTransformerDecoder(slot_size=8, grid=(2, 2), feature_size=6, num_blocks=2, num_heads=2)
        >>> decoded = decoder(torch.zeros(2, 3, 8), features=torch.zeros(2, 4, 6))
        >>> decoded.prediction.shape, decoded.masks.shape  # masks sum to 1 over the slots
        (torch.Size([2, 4, 6]), torch.Size([2, 3, 4]))
    """

    orders: Tensor

    def __init__(
        self,
        slot_size: int,
        grid: tuple[int, int],
        feature_size: int,
        *,
        num_blocks: int = 4,
        num_heads: int = 4,
        permuted: bool = False,
    ) -> None:
        super().__init__()
        if feature_size % num_heads:
            raise ValueError(
                f"Expected argument `decoder_heads` to be a divisor of the feature size {feature_size}, "
                f"but got {num_heads}"
            )
        orders = patch_orders(*grid)[: None if permuted else 1]
        self.register_buffer("orders", orders, persistent=False)
        self.beginnings = nn.Parameter(torch.randn(len(orders), feature_size) * feature_size**-0.5)
        self.from_features, self.from_slots = (
            nn.Sequential(nn.Linear(size, feature_size, bias=False), nn.LayerNorm(feature_size))
            for size in (feature_size, slot_size)
        )
        self.blocks = nn.ModuleList(DecoderBlock(feature_size, num_heads) for _ in range(num_blocks))

    def forward(
        self,
        slots: Tensor,
        *,
        attention: Tensor | None = None,
        features: Tensor | None = None,
        active: Tensor | None = None,
        with_masks: bool = True,
    ) -> Decoded:
        """Predict features, each from those before it.

        Args:
            slots: `(B, K, D)`.
            attention: Unused.
            features: The true features, `(B, N, F)` (teacher forcing).
            active: Which slots have a mask, bool `(B, K)`. None: all.
            with_masks: Compute the masks, which training does not need: the cross-attention of the last block to the
                slots, averaged over heads.
        """
        order, last, inputs, memory = self._run_to_last(slots, features)
        prediction = self._to_raster_order(last(inputs, memory), order)
        masks = self._weights(last, inputs, memory, order) if with_masks else None
        return Decoded(prediction, None if masks is None else mask_inactive_slots(masks, active))

    def masks(
        self,
        slots: Tensor,
        *,
        attention: Tensor | None = None,
        features: Tensor | None = None,
        active: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Compute the masks that `forward` returns without the prediction, and None for slot images."""
        order, last, inputs, memory = self._run_to_last(slots, features)
        return mask_inactive_slots(self._weights(last, inputs, memory, order), active), None

    @staticmethod
    def target(images: Tensor | None, features: Tensor) -> Tensor:
        """Return what is to be predicted: the features."""
        return features

    def _run_to_last(
        self, slots: Tensor, features: Tensor | None
    ) -> tuple[Tensor | None, DecoderBlock, Tensor, Tensor]:
        """Run all blocks but the last: the order of the patches, the last block, its inputs and the slot memory."""
        if features is None:
            raise ValueError("Expected argument `features` to be the true features (B, N, F), but got None")
        order, inputs, memory = self._begin(slots, features)
        *earlier, last = self._blocks()
        for block in earlier:
            inputs = block(inputs, memory)
        return order, last, inputs, memory

    def _begin(self, slots: Tensor, features: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        """Sample the patch order of each image `(B, N)`, and compute the inputs and the memory of slots."""
        order, beginning = None, self.beginnings[:1]
        if self.training and len(self.orders) > 1:
            order_index = torch.randint(len(self.orders), (len(features),), device=features.device)
            order, beginning = self.orders[order_index], self.beginnings[order_index]
            features = features.gather(1, order[..., None].expand_as(features))
        start = beginning[:, None].expand(len(features), 1, -1).to(features.dtype)
        inputs = torch.cat([start, features.detach()[:, :-1]], 1)
        return order, self.from_features(inputs), self.from_slots(slots)

    def _weights(self, last: DecoderBlock, inputs: Tensor, memory: Tensor, order: Tensor | None) -> Tensor:
        queries = last.norm_cross(last.attend_to_patches(inputs))
        return self._to_raster_order(last.cross_attention.weights(queries, memory), order).transpose(1, 2)

    @staticmethod
    def _to_raster_order(values: Tensor, order: Tensor | None) -> Tensor:
        """Bring values `(B, N, ...)` from the order of prediction to raster order."""
        if order is None:
            return values
        return values.gather(1, order.argsort(1)[..., None].expand_as(values))

    def _blocks(self) -> list[DecoderBlock]:
        return list(self.blocks)  # type: ignore[arg-type]
