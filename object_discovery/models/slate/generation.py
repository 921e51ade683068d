"""Writing the tokens of an image from its slots, one after another."""

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
    """Write the tokens of images from their slots.

    Args:
        decoder: Predicts tokens; in evaluation mode, since dropout would disturb it.
        embedding: The embedding that it was trained with; says how many tokens an image has.
        slots: `(B, K, D)`.
        temperature: 0: take the likeliest token, as published. Above 0: draw from the predictions, which are flatter
            the higher it is.
        cached: Keep the keys and values of earlier tokens, so that N tokens take N steps. False: compute all earlier
            tokens again for each, as published; for comparisons.

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
