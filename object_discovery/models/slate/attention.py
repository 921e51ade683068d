"""Attention of several heads for the transformer of SLATE, with a cache for generation."""

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
    """The keys and values of the tokens so far, so that each is computed once.

    Args:
        capacity: The most tokens that it will hold.
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


def attend(queries: Tensor, keys: Tensor, values: Tensor, *, causal: bool = False, share: float = 0.0) -> Tensor:
    """Compute `softmax(queries keys^T / sqrt(d)) values`, of which a share of the softmax is dropped.

    torch's fused attention, but where a gradient is needed on the CPU: there it is done in blocks of queries, each with
    the keys that it may see. That is as fast or faster than torch's, and several times so where something is dropped.

    Args:
        queries: `(B, heads, L, d)`.
        keys: `(B, heads, M, d)`.
        values: `(B, heads, M, d)`.
        causal: Let each query see the keys up to its own position only; M is L.
        share: Share of the attention that is dropped, in [0, 1).

    Returns:
        `(B, heads, L, d)`.

    Example:
        >>> q = torch.randn(1, 2, 5, 4)
        >>> torch.equal(attend(q, q, q, causal=True)[:, :, 0], q[:, :, 0])  # the first sees itself only
        True
    """
    if queries.device.type != "cpu" or not (share or queries.requires_grad):
        return F.scaled_dot_product_attention(queries, keys, values, dropout_p=share, is_causal=causal)
    shape = queries.shape
    queries, keys, values = (part.flatten(0, 1) for part in (queries * queries.shape[-1] ** -0.5, keys, values))
    outputs = []
    length = _BLOCK if causal else queries.shape[1]
    for start in range(0, queries.shape[1], length):
        block = queries[:, start : start + length]
        seen = start + block.shape[1] if causal else keys.shape[1]
        logits = block @ keys[:, :seen].transpose(1, 2)
        if causal:
            size = block.shape[1]
            logits[..., start:] += torch.full((size, size), -torch.inf, dtype=logits.dtype).triu_(1)
        outputs.append(dropout(logits.softmax(-1), share) @ values[:, :seen])
    return torch.cat(outputs, 1).view(*shape[:3], -1)


class Attention(nn.Module):
    """Attention of several heads, without biases.

    Args:
        size: Size of what comes in and goes out, d.
        num_heads: Heads; a divisor of `size`.
        gain: Factor on the initial weights of the output.
        dropout: Share of the attention that is dropped in training.
        output_dropout: Share of the output that is dropped in training.

    Example:
        >>> attention = Attention(16, num_heads=2)
        >>> x = torch.zeros(1, 5, 16)
        >>> attention(x, attention.keys_values(x)).shape  # to any keys and values
        torch.Size([1, 5, 16])
        >>> attention.to_self(x).shape  # each to itself and those before it
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
        """Compute what `forward` attends to, from inputs `(B, L, d)`.

        Keys are multiplied with the layer of the queries, and values with that of the outputs: slots are few, so that
        this takes fewer products than to apply both layers to every token.

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
        """Let inputs `(B, L, d)` attend to what `keys_values` computed."""
        keys, values = keys_values
        weights = dropout(self._weights(inputs, keys), self._share)
        return self.output_dropout(weights.flatten(2) @ values)  # type: ignore[no-any-return]

    def to_self(self, inputs: Tensor, cache: KeyValueCache | None = None) -> Tensor:
        """Let each input `(B, L, d)` attend to itself and those before it; with a cache L is 1, and they are there."""
        queries, keys, values = self._project(inputs, self.to_query, self.to_key, self.to_value)
        if cache is not None:
            return self._output(attend(queries, *cache.append(keys, values)))
        return self._output(attend(queries, keys, values, causal=True, share=self._share))

    def weights(self, inputs: Tensor, keys: Tensor) -> Tensor:
        """Return how much each input `(B, L, d)` attends to each key, averaged over heads: `(B, L, keys)`, float32."""
        return self._weights(inputs, keys).float().mean(2)

    def _weights(self, inputs: Tensor, keys: Tensor) -> Tensor:
        return rearrange(inputs @ keys, "b n (h l) -> b n h l", h=self.num_heads).softmax(-1)

    @property
    def _share(self) -> float:
        return self.dropout if self.training else 0.0

    def _project(self, inputs: Tensor, *layers: nn.Linear) -> list[Tensor]:
        """Apply several layers as one product."""
        together = F.linear(inputs, torch.cat([layer.weight for layer in layers]))
        return [self._split(part) for part in together.chunk(len(layers), -1)]

    def _split(self, features: Tensor) -> Tensor:
        return rearrange(features, "b l (h d) -> b h l d", h=self.num_heads)

    def _output(self, heads: Tensor) -> Tensor:
        return self.output_dropout(self.to_output(rearrange(heads, "b h l d -> b l (h d)")))  # type: ignore[no-any-return]
