"""Autoregressive transformer decoder of SLATE."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from object_discovery.layers.dropout import Dropout
from object_discovery.models.slate.attention import Attention, KeysValues, KeyValueCache
from object_discovery.models.slate.cross_entropy import token_cross_entropy


class DecoderBlock(nn.Module):
    """Pre-norm transformer decoder block: causal self-attention, cross-attention to the slots, MLP.

    Args:
        size: Embedding dimension, d.
        num_heads: Attention heads.
        gain: Gain of the initialisation of each output projection.
        is_first: First block, whose first residual connection starts from the normalised inputs, as published.
        dropout: Dropout probability of the sublayer outputs.
        attention_dropout: Dropout probability of the attention weights.
    """

    def __init__(
        self, size: int, num_heads: int, *, gain: float, is_first: bool, dropout: float, attention_dropout: float
    ) -> None:
        super().__init__()
        self.is_first = is_first
        self.norm_self, self.norm_cross, self.norm_mlp = (nn.LayerNorm(size) for _ in range(3))
        self.self_attention, self.cross_attention = (
            Attention(size, num_heads, gain=gain, dropout=attention_dropout, output_dropout=dropout) for _ in range(2)
        )
        hidden, output = nn.Linear(size, 4 * size), nn.Linear(4 * size, size)
        nn.init.xavier_uniform_(hidden.weight)
        nn.init.xavier_uniform_(output.weight, gain)
        for layer in (hidden, output):
            nn.init.zeros_(layer.bias)
        self.mlp = nn.Sequential(hidden, nn.ReLU(), output, Dropout(dropout))

    def forward(self, inputs: Tensor, slots: KeysValues, cache: KeyValueCache | None = None) -> Tensor:
        """Transform tokens `(B, L, d)`; with a cache, L is 1 and the previous tokens are in it."""
        features = self.attend_to_tokens(inputs, cache)
        features = features + self.cross_attention(self.norm_cross(features), slots)
        return features + self.mlp(self.norm_mlp(features))  # type: ignore[no-any-return]

    def attend_to_tokens(self, inputs: Tensor, cache: KeyValueCache | None = None) -> Tensor:
        """Apply self-attention with its residual connection."""
        normed = self.norm_self(inputs)
        return (normed if self.is_first else inputs) + self.self_attention.to_self(normed, cache)  # type: ignore[no-any-return]


class TokenTransformerDecoder(nn.Module):
    """Transformer decoder that predicts each token from the previous tokens and the slots.

    Shapes: B images, N tokens, codebook size V, K slots, D slot size, d embedding dimension.

    Args:
        codebook_size: V.
        slot_size: D.
        size: d.
        num_blocks: Number of blocks.
        num_heads: Attention heads, a divisor of d.
        dropout: Dropout probability of the sublayer outputs.
        attention_dropout: Dropout probability of the attention weights.

    Reference:
        Singh, Deng and Ahn 2022, section 3; Vaswani et al., Attention Is All You Need, 2017, arXiv 1706.03762.

    Example:
        >>> decoder = TokenTransformerDecoder(codebook_size=32, slot_size=8, size=16, num_blocks=2, num_heads=4)
        >>> decoder(torch.zeros(2, 9, 16), torch.zeros(2, 3, 8)).shape
        torch.Size([2, 9, 32])
    """

    def __init__(
        self,
        codebook_size: int,
        slot_size: int,
        size: int = 192,
        *,
        num_blocks: int = 4,
        num_heads: int = 4,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.from_slots = nn.Linear(slot_size, size, bias=False)
        blocks = (
            DecoderBlock(
                size,
                num_heads,
                gain=(3 * num_blocks) ** -0.5,
                is_first=index == 0,
                dropout=dropout,
                attention_dropout=attention_dropout,
            )
            for index in range(num_blocks)
        )
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(size)
        self.to_logits = nn.Linear(size, codebook_size, bias=False)
        nn.init.xavier_uniform_(self.from_slots.weight)
        nn.init.xavier_uniform_(self.to_logits.weight)

    def forward(self, inputs: Tensor, slots: Tensor, targets: Tensor | None = None) -> Any:
        """Predict the next token of each position.

        Args:
            inputs: Embedded tokens, `(B, N, d)`.
            slots: `(B, K, D)`.
            targets: The next tokens, `(B, N)`. None: return logits.

        Returns:
            Logits `(B, N, V)`; or with targets the sum of the cross-entropies, and each of them without gradient,
            `(B, N)`, see `token_cross_entropy`.
        """
        features = self.transform(inputs, self.read(slots))
        if targets is None:
            return self.to_logits(features)
        total, each = token_cross_entropy(features.flatten(0, 1), self.to_logits.weight, targets.flatten())
        return total, each.view(targets.shape)

    def read(self, slots: Tensor) -> list[KeysValues]:
        """Compute the keys and values of slots `(B, K, D)` for the cross-attention of each block."""
        memory = self.from_slots(slots)
        return [block.cross_attention.keys_values(memory) for block in self._blocks()]

    def transform(self, inputs: Tensor, slots: list[KeysValues], caches: list[KeyValueCache] | None = None) -> Tensor:
        """Compute the output features `(B, N, d)` of embedded tokens, given the keys and values of the slots."""
        for index, block in enumerate(self._blocks()):
            inputs = block(inputs, slots[index], caches[index] if caches else None)
        return self.norm(inputs)  # type: ignore[no-any-return]

    def step(self, inputs: Tensor, slots: list[KeysValues], caches: list[KeyValueCache] | None) -> Tensor:
        """Compute the logits `(B, 1, V)` of the next token; with caches, inputs hold the last token only."""
        return self.to_logits(self.transform(inputs, slots, caches)[:, -1:])  # type: ignore[no-any-return]

    def attention(self, inputs: Tensor, slots: Tensor) -> Tensor:
        """Compute the cross-attention to the slots in the last block, `(B, K, N)`; it sums to 1 over K."""
        *earlier, last = zip(self._blocks(), self.read(slots), strict=True)
        for block, keys_values in earlier:
            inputs = block(inputs, keys_values)
        block, (keys, _) = last
        queries = block.norm_cross(block.attend_to_tokens(inputs))
        return block.cross_attention.weights(queries, keys).transpose(1, 2)

    def _blocks(self) -> list[DecoderBlock]:
        return list(self.blocks)  # type: ignore[arg-type]


class TokenEmbedding(nn.Module):
    """Token and position embedding, with a begin-of-sequence token.

    Args:
        codebook_size: V.
        num_tokens: Sequence length N.
        size: Embedding dimension d.
        dropout: Dropout probability.

    Example:
        >>> TokenEmbedding(codebook_size=32, num_tokens=9, size=16)(torch.zeros(2, 9, dtype=torch.long)).shape
        torch.Size([2, 10, 16])
    """

    def __init__(self, codebook_size: int, num_tokens: int, size: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.num_tokens = num_tokens
        self.token_embedding = nn.Embedding(codebook_size + 1, size)  # index 0: begin of sequence; token j: j + 1
        self.positions = nn.Parameter(torch.empty(num_tokens + 1, size))
        self.dropout = Dropout(dropout)
        nn.init.trunc_normal_(self.positions)  # standard deviation 1, as published

    def forward(self, tokens: Tensor) -> Tensor:
        """Embed the first L tokens `(B, L)` of sequences as `(B, 1 + L, d)`, the begin-of-sequence token first."""
        embedded = self.token_embedding(F.pad(tokens + 1, (1, 0)))
        return self.dropout(embedded + self.positions[: embedded.shape[1]])  # type: ignore[no-any-return]

    def at(self, position: int, tokens: Tensor) -> Tensor:
        """Embed tokens `(B, 1)` at a position as `(B, 1, d)`; position 0 is the begin-of-sequence token."""
        embedded = self.token_embedding(tokens + 1 if position else torch.zeros_like(tokens))
        return self.dropout(embedded + self.positions[position])  # type: ignore[no-any-return]
