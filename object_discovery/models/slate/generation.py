"""Autoregressive generation of the tokens of an image from its slots."""

from __future__ import annotations

import torch
from torch import Tensor

from object_discovery.models.slate.attention import KeyValueCache
from object_discovery.models.slate.dvae import sample_tokens
from object_discovery.models.slate.transformer import TokenEmbedding, TokenTransformerDecoder


@torch.no_grad()
def generate_tokens(
    decoder: TokenTransformerDecoder,
    embedding: TokenEmbedding,
    slots: Tensor,
    *,
    temperature: float = 0.0,
    cached: bool = True,
) -> Tensor:
    """Generate tokens autoregressively from slots.

    Args:
        decoder: The decoder, in evaluation mode.
        embedding: Its token embedding, which determines the number of tokens.
        slots: `(B, K, D)`.
        temperature: 0: argmax, as published. Above 0: sample from the softmax at this temperature.
        cached: Use a key/value cache. False: recompute the whole prefix for each token, as published, for comparisons.

    Returns:
        Tokens `(B, N)`, int64.

    Raises:
        ValueError: If the temperature is negative.

    Example:
        >>> decoder = TokenTransformerDecoder(32, slot_size=8, size=16).eval()
        >>> embedding = TokenEmbedding(32, num_tokens=9, size=16).eval()
        >>> generate_tokens(decoder, embedding, torch.zeros(2, 3, 8)).shape
        torch.Size([2, 9])
    """
    if temperature < 0:
        raise ValueError(f"Expected argument `temperature` to be at least 0, but got {temperature}")
    memory = decoder.read(slots)
    caches = [KeyValueCache(embedding.num_tokens) for _ in memory] if cached else None
    tokens = torch.zeros(len(slots), embedding.num_tokens, dtype=torch.long, device=slots.device)
    for index in range(embedding.num_tokens):
        last = max(0, index - 1)
        inputs = embedding.at(index, tokens[:, last : last + 1]) if cached else embedding(tokens[:, :index])
        logits = decoder.step(inputs, memory, caches)[:, -1]
        tokens[:, index] = sample_tokens(logits / temperature) if temperature else logits.max(-1).indices
    return tokens
