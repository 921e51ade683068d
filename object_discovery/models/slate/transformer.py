"""The transformer decoder of SLATE: it predicts each token from those before it and from the slots."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

KeysValues = tuple[Tensor, Tensor]


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
        >>> attention(x, attention.keys_values(x), causal=True).shape
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
        self.output_dropout = nn.Dropout(output_dropout)
        for layer in (self.to_query, self.to_key, self.to_value):
            nn.init.xavier_uniform_(layer.weight)
        nn.init.xavier_uniform_(self.to_output.weight, gain)

    def keys_values(self, inputs: Tensor) -> KeysValues:
        """Compute the keys and values `(B, heads, L, d / heads)` of inputs `(B, L, d)`."""
        return self._split(self.to_key(inputs)), self._split(self.to_value(inputs))

    def forward(self, inputs: Tensor, keys_values: KeysValues, causal: bool = False) -> Tensor:
        """Let inputs `(B, L, d)` attend to keys and values; `causal`: each only to itself and those before it."""
        dropout = self.dropout if self.training else 0.0
        heads = F.scaled_dot_product_attention(
            self._split(self.to_query(inputs)), *keys_values, dropout_p=dropout, is_causal=causal
        )
        outputs: Tensor = self.to_output(rearrange(heads, "b h l d -> b l (h d)"))
        return self.output_dropout(outputs)  # type: ignore[no-any-return]

    def weights(self, inputs: Tensor, keys: Tensor) -> Tensor:
        """Return how much each input `(B, L, d)` attends to each key, averaged over heads: `(B, L, keys)`, float32."""
        queries = self._split(self.to_query(inputs))
        logits = queries.float() @ keys.float().transpose(-1, -2) * queries.shape[-1] ** -0.5
        weights: Tensor = logits.softmax(-1).mean(1)
        return weights

    def _split(self, features: Tensor) -> Tensor:
        return rearrange(features, "b l (h d) -> b h l d", h=self.num_heads)


class DecoderBlock(nn.Module):
    """Attention to the tokens so far, attention to the slots, and an MLP, each normalised before and added.

    Args:
        size: Size of a token's vector, d.
        num_heads: Heads of both attentions.
        gain: Factor on the initial weights of each output.
        is_first: The published first block goes on from the normalised inputs instead of the inputs.
        dropout: Share of the outputs that is dropped in training.
        attention_dropout: Share of the attention that is dropped in training.
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
        self.mlp = nn.Sequential(hidden, nn.ReLU(), output, nn.Dropout(dropout))

    def forward(self, inputs: Tensor, slots: KeysValues, cache: KeyValueCache | None = None) -> Tensor:
        """Process tokens `(B, L, d)`; with a cache they are the next ones, and L is 1."""
        features = self.attend_to_tokens(inputs, cache)
        features = features + self.cross_attention(self.norm_cross(features), slots)
        return features + self.mlp(self.norm_mlp(features))  # type: ignore[no-any-return]

    def attend_to_tokens(self, inputs: Tensor, cache: KeyValueCache | None = None) -> Tensor:
        """Do the first of the three parts."""
        normed = self.norm_self(inputs)
        keys_values = self.self_attention.keys_values(normed)
        if cache is not None:
            keys_values = cache.append(*keys_values)
        attended: Tensor = self.self_attention(normed, keys_values, causal=cache is None)
        return (normed if self.is_first else inputs) + attended


class TransformerDecoder(nn.Module):
    """Predict tokens from the tokens before them and from slots.

    Letters: B images, N tokens, V words, K slots, D slot size, d the size of a token's vector.

    Args:
        vocabulary_size: V.
        slot_size: D.
        size: d.
        num_blocks: Blocks.
        num_heads: Heads of each attention; a divisor of d.
        dropout: Share of the outputs that is dropped in training.
        attention_dropout: Share of the attention that is dropped in training.

    Reference:
        Singh, Deng and Ahn 2022, section 3; Vaswani et al., Attention Is All You Need, 2017, arXiv 1706.03762.

    Example:
        >>> decoder = TransformerDecoder(vocabulary_size=32, slot_size=8, size=16, num_blocks=2, num_heads=4)
        >>> decoder(torch.zeros(2, 9, 16), torch.zeros(2, 3, 8)).shape
        torch.Size([2, 9, 32])
    """

    def __init__(
        self,
        vocabulary_size: int,
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
        self.to_logits = nn.Linear(size, vocabulary_size, bias=False)
        nn.init.xavier_uniform_(self.from_slots.weight)
        nn.init.xavier_uniform_(self.to_logits.weight)

    def forward(self, inputs: Tensor, slots: Tensor) -> Tensor:
        """Predict, for each of the embedded tokens `(B, N, d)`, the logits `(B, N, V)` of the one after it."""
        return self.step(inputs, self.read(slots), None)

    def read(self, slots: Tensor) -> list[KeysValues]:
        """Compute each block's keys and values of slots `(B, K, D)`; they are the same for every token."""
        memory = self.from_slots(slots)
        return [block.cross_attention.keys_values(memory) for block in self._blocks()]

    def step(self, inputs: Tensor, slots: list[KeysValues], caches: list[KeyValueCache] | None) -> Tensor:
        """Do `forward` with slots already read; with a cache for each block, for the next token `(B, 1, d)` alone."""
        for index, block in enumerate(self._blocks()):
            inputs = block(inputs, slots[index], caches[index] if caches else None)
        return self.to_logits(self.norm(inputs))  # type: ignore[no-any-return]

    def attention(self, inputs: Tensor, slots: Tensor) -> Tensor:
        """Return how much each token draws on each slot in the last block, `(B, K, N)`, which sums to 1 over K."""
        *earlier, last = zip(self._blocks(), self.read(slots), strict=True)
        for block, keys_values in earlier:
            inputs = block(inputs, keys_values)
        block, (keys, _) = last
        queries = block.norm_cross(block.attend_to_tokens(inputs))
        return block.cross_attention.weights(queries, keys).transpose(1, 2)

    def _blocks(self) -> list[DecoderBlock]:
        return list(self.blocks)  # type: ignore[arg-type]


class TokenEmbedding(nn.Module):
    """Vectors for tokens at their positions, after a vector for the beginning.

    Args:
        vocabulary_size: V.
        num_tokens: N, the length of a sequence.
        size: d.
        dropout: Share of the vectors' entries that is dropped in training.

    Example:
        >>> TokenEmbedding(vocabulary_size=32, num_tokens=9, size=16)(torch.zeros(2, 9, dtype=torch.long)).shape
        torch.Size([2, 10, 16])
    """

    def __init__(self, vocabulary_size: int, num_tokens: int, size: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.num_tokens = num_tokens
        self.words = nn.Embedding(vocabulary_size + 1, size)  # 0 is the beginning, token j is j + 1
        self.positions = nn.Parameter(torch.empty(num_tokens + 1, size))
        self.dropout = nn.Dropout(dropout)
        nn.init.trunc_normal_(self.positions)  # standard deviation 1, as published

    def forward(self, tokens: Tensor) -> Tensor:
        """Embed the first L tokens `(B, L)` of sequences: `(B, 1 + L, d)`, the beginning first."""
        words = self.words(F.pad(tokens + 1, (1, 0)))
        return self.dropout(words + self.positions[: words.shape[1]])  # type: ignore[no-any-return]

    def at(self, position: int, tokens: Tensor) -> Tensor:
        """Embed the tokens `(B, 1)` that stand at a position from 1 on; at 0 is the beginning: `(B, 1, d)`."""
        words = self.words(tokens + 1 if position else torch.zeros_like(tokens))
        return self.dropout(words + self.positions[position])  # type: ignore[no-any-return]
