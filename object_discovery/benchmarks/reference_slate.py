"""Reference implementation of SLATE, computed as in the authors' code, on the weights of the library's model.

Tokens and targets are one-hot, attention is an explicit softmax with a mask, and every generated token takes a pass
over the whole prefix.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from object_discovery.models.slate.attention import Attention
from object_discovery.models.slate.dvae import PATCH
from object_discovery.models.slate.model import SLATE
from object_discovery.models.slate.transformer import DecoderBlock


def reference_losses(model: SLATE, images: Tensor, tau: float) -> tuple[Tensor, Tensor]:
    """Compute the squared error of the discrete VAE and the cross-entropy of the decoder, both as means over images.

    Args:
        model: The model, whose weights are used; its resolution must be a multiple of 4, and its Slot Attention must
            back-propagate through all iterations.
        images: `(B, 3, H, W)` in [0, 1].
        tau: Temperature of the relaxed tokens.

    Returns:
        Squared error and cross-entropy, scalars.

    Reference:
        Singh, Deng and Ahn 2022, section 3.
    """
    height = images.shape[-2] // PATCH
    log_probs = model.dvae.encode(images).log_softmax(-1)
    reconstruction = model.dvae.decode(F.gumbel_softmax(log_probs, tau), height)
    one_hots = F.gumbel_softmax(log_probs, tau, hard=True).detach()
    mse = (reconstruction - images).square().sum() / len(images)
    slots, embedded = _attend_slots(model, one_hots)
    logits = _decode(model, embedded[:, :-1], slots)
    return mse, -(one_hots * logits.log_softmax(-1)).flatten(1).sum(1).mean()


@torch.no_grad()
def reference_generation(model: SLATE, slots: Tensor, lengths: Iterable[int] | None = None) -> Tensor:
    """Generate tokens autoregressively from slots, with a pass over the whole prefix for each token.

    Args:
        model: In evaluation mode.
        slots: `(B, K, D)`.
        lengths: Prefix lengths, in tokens, at which a token is generated; the other tokens are 0, so that a part of the
            generation can be timed. None: all.

    Returns:
        Tokens `(B, N)`, int64.
    """
    codebook_size, num_tokens = model.params.codebook_size, model.embedding.num_tokens
    one_hots = torch.zeros(len(slots), 1 + num_tokens, 1 + codebook_size, device=slots.device)
    one_hots[:, 0, 0] = 1  # the beginning-of-sequence token
    one_hots[:, 1:, 1] = 1
    for length in range(num_tokens) if lengths is None else lengths:
        logits = _decode(model, _embed(model, one_hots[:, : length + 1]), slots)[:, -1]
        token = F.one_hot(logits.argmax(-1), codebook_size)
        one_hots[:, length + 1] = F.pad(token, (1, 0)).to(one_hots.dtype)
    return one_hots[:, 1:, 1:].argmax(-1)


def _attend_slots(model: SLATE, one_hots: Tensor) -> tuple[Tensor, Tensor]:
    """Embed one-hot tokens `(B, N, V)` after a beginning-of-sequence token, and compute their slots."""
    beginning = torch.zeros_like(one_hots[:, :1])
    sequence = torch.cat([F.pad(beginning, (1, 0)), F.pad(one_hots, (1, 0))], 1)
    sequence[:, 0, 0] = 1
    embedded = _embed(model, sequence)
    core = model.slot_attention
    slots = core.initial_slots(len(embedded))
    keys, values = core.project(model.features(embedded[:, 1:]))
    for _ in range(core.num_iterations):
        slots, _ = core.step(slots, keys, values)
    return slots, embedded


def _embed(model: SLATE, one_hots: Tensor) -> Tensor:
    embedding = model.embedding
    tokens: Tensor = embedding.token_embedding(one_hots.argmax(-1))
    return embedding.dropout(tokens + embedding.positions[: tokens.shape[1]])  # type: ignore[no-any-return]


def _decode(model: SLATE, inputs: Tensor, slots: Tensor) -> Tensor:
    decoder = model.decoder
    memory, length = decoder.from_slots(slots), inputs.shape[1]
    mask = torch.ones(length, length, dtype=torch.bool, device=inputs.device).triu(1)
    for module in decoder.blocks:
        assert isinstance(module, DecoderBlock)
        normed = module.norm_self(inputs)
        inputs = (normed if module.is_first else inputs) + _attend(module.self_attention, normed, normed, mask)
        inputs = inputs + _attend(module.cross_attention, module.norm_cross(inputs), memory, None)
        inputs = inputs + module.mlp(module.norm_mlp(inputs))
    return decoder.to_logits(decoder.norm(inputs))  # type: ignore[no-any-return]


def _attend(attention: Attention, inputs: Tensor, memory: Tensor, mask: Tensor | None) -> Tensor:
    queries, keys, values = (
        rearrange(project(features), "b l (h d) -> b h l d", h=attention.num_heads)
        for project, features in (
            (attention.to_query, inputs),
            (attention.to_key, memory),
            (attention.to_value, memory),
        )
    )
    logits = (queries * queries.shape[-1] ** -0.5) @ keys.transpose(-1, -2)
    if mask is not None:
        logits = logits.masked_fill(mask, -torch.inf)
    weights = F.dropout(logits.softmax(-1), attention.dropout, attention.training)
    heads = rearrange(weights @ values, "b h l d -> b l (h d)")
    return attention.output_dropout(attention.to_output(heads))  # type: ignore[no-any-return]
