"""Multi-head attention of the transformer of SLATE, with a key/value cache for generation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from object_discovery.layers.dropout import Dropout, dropout

KeysValues = tuple[Tensor, Tensor]
_BLOCK = 128


@dataclass
class KeyValueCache:
    """Key/value cache of the previous tokens.

    Args:
        capacity: Maximum number of tokens.
    """

    capacity: int
    length: int = 0
    keys: Tensor | None = None
    values: Tensor | None = None

    def append(self, keys: Tensor, values: Tensor) -> KeysValues:
        """Add the keys and values `(B, heads, L, d)` of L tokens; return those of all tokens so far."""
        if self.keys is None or self.values is None:
            shape = (*keys.shape[:2], self.capacity, keys.shape[3])
            self.keys, self.values = keys.new_empty(shape), values.new_empty(shape)
        start, self.length = self.length, self.length + keys.shape[2]
        self.keys[:, :, start : self.length] = keys
        self.values[:, :, start : self.length] = values
        return self.keys[:, :, : self.length], self.values[:, :, : self.length]


def attend(queries: Tensor, keys: Tensor, values: Tensor, *, causal: bool = False, probability: float = 0.0) -> Tensor:
    """Compute scaled dot-product attention.

    The fused attention of torch, except on the CPU with gradients: there in blocks of queries, each with the keys up to
    its last position, which is as fast as torch or faster, and several times faster with dropout.

    Args:
        queries: `(B, heads, L, d)`.
        keys: `(B, heads, M, d)`.
        values: `(B, heads, M, d)`.
        causal: Causal mask; M is L.
        probability: Dropout probability of the attention weights, in [0, 1).

    Returns:
        `(B, heads, L, d)`.

    Example:
        >>> q = torch.randn(1, 2, 5, 4)
        >>> torch.equal(attend(q, q, q, causal=True)[:, :, 0], q[:, :, 0])  # the first query attends to itself only
        True
    """
    if queries.device.type != "cpu" or not (probability or queries.requires_grad):
        return F.scaled_dot_product_attention(queries, keys, values, dropout_p=probability, is_causal=causal)
    shape = queries.shape
    queries, keys, values = (part.flatten(0, 1) for part in (queries * queries.shape[-1] ** -0.5, keys, values))
    outputs = []
    length = _BLOCK if causal else queries.shape[1]
    for start in range(0, queries.shape[1], length):
        block = queries[:, start : start + length]
        num_keys = start + block.shape[1] if causal else keys.shape[1]
        logits = block @ keys[:, :num_keys].transpose(1, 2)
        if causal:
            size = block.shape[1]
            logits[..., start:] += torch.full((size, size), -torch.inf, dtype=logits.dtype).triu_(1)
        outputs.append(dropout(logits.softmax(-1), probability) @ values[:, :num_keys])
    return torch.cat(outputs, 1).view(*shape[:3], -1)


class Attention(nn.Module):
    """Multi-head attention without biases.

    Args:
        size: Embedding dimension, d.
        num_heads: Attention heads, a divisor of `size`.
        gain: Gain of the initialisation of the output projection.
        dropout: Dropout probability of the attention weights.
        output_dropout: Dropout probability of the output.

    Example:
        >>> attention = Attention(16, num_heads=2)
        >>> x = torch.zeros(1, 5, 16)
        >>> attention(x, attention.keys_values(x)).shape  # cross-attention
        torch.Size([1, 5, 16])
        >>> attention.to_self(x).shape  # causal self-attention
        torch.Size([1, 5, 16])
    """

    def __init__(
        self, size: int, num_heads: int, *, gain: float = 1.0, dropout: float = 0.0, output_dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.num_heads, self.dropout = num_heads, dropout
        self.to_query = nn.Linear(size, size, bias=False)
        self.to_key = nn.Linear(size, size, bias=False)
        self.to_value = nn.Linear(size, size, bias=False)
        self.to_output = nn.Linear(size, size, bias=False)
        self.output_dropout = Dropout(output_dropout)
        for layer in (self.to_query, self.to_key, self.to_value):
            nn.init.xavier_uniform_(layer.weight)
        nn.init.xavier_uniform_(self.to_output.weight, gain)

    def keys_values(self, inputs: Tensor) -> KeysValues:
        """Compute keys and values for `forward` from inputs `(B, L, d)`.

        The query projection is folded into the keys and the output projection into the values, which costs less than
        applying both to every token, as there are few slots.

        Returns:
            `(B, d, heads * L)` and `(B, heads * L, d)`.
        """
        keys, values = self._project(inputs, self.to_key, self.to_value)
        to_query = rearrange(self.to_query.weight, "(h d) e -> h d e", h=self.num_heads) * keys.shape[-1] ** -0.5
        to_output = rearrange(self.to_output.weight, "e (h d) -> e h d", h=self.num_heads)
        return (
            torch.einsum("bhld,hde->behl", keys, to_query).flatten(2),
            torch.einsum("bhld,ehd->bhle", values, to_output).flatten(1, 2),
        )

    def forward(self, inputs: Tensor, keys_values: KeysValues) -> Tensor:
        """Compute cross-attention of inputs `(B, L, d)` to the result of `keys_values`."""
        keys, values = keys_values
        weights = dropout(self._weights(inputs, keys), self._probability)
        return self.output_dropout(weights.flatten(2) @ values)  # type: ignore[no-any-return]

    def to_self(self, inputs: Tensor, cache: KeyValueCache | None = None) -> Tensor:
        """Compute causal self-attention of inputs `(B, L, d)`; with a cache, L is 1 and the previous ones are in it."""
        queries, keys, values = self._project(inputs, self.to_query, self.to_key, self.to_value)
        if cache is not None:
            return self._output(attend(queries, *cache.append(keys, values)))
        return self._output(attend(queries, keys, values, causal=True, probability=self._probability))

    def weights(self, inputs: Tensor, keys: Tensor) -> Tensor:
        """Compute the attention weights of inputs `(B, L, d)`, averaged over heads: `(B, L, keys)`, float32."""
        return self._weights(inputs, keys).float().mean(2)

    def _weights(self, inputs: Tensor, keys: Tensor) -> Tensor:
        return rearrange(inputs @ keys, "b n (h l) -> b n h l", h=self.num_heads).softmax(-1)

    @property
    def _probability(self) -> float:
        return self.dropout if self.training else 0.0

    def _project(self, inputs: Tensor, *layers: nn.Linear) -> list[Tensor]:
        """Apply several projections as one matrix product."""
        projected = F.linear(inputs, torch.cat([layer.weight for layer in layers]))
        return [self._split(part) for part in projected.chunk(len(layers), -1)]

    def _split(self, features: Tensor) -> Tensor:
        return rearrange(features, "b l (h d) -> b h l d", h=self.num_heads)

    def _output(self, heads: Tensor) -> Tensor:
        return self.output_dropout(self.to_output(rearrange(heads, "b h l d -> b l (h d)")))  # type: ignore[no-any-return]
