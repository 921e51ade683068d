"""SLATE computed the way its authors' code does, with the weights of ours: what our way is compared with.

Tokens and targets are one-hots, attention is an explicit softmax under a mask, and every generated token costs a pass
over all tokens before it.
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


def published_losses(model: SLATE, images: Tensor, tau: float) -> tuple[Tensor, Tensor]:
    """Compute the squared error of the discrete VAE and the cross-entropy of the decoder, both as means over images.

    Args:
        model: Its weights are used; its resolution is a multiple of 4 and its Slot Attention has the full gradient.
        images: `(B, 3, H, W)` in [0, 1].
        tau: Temperature of the relaxed tokens.

    Returns:
        Two scalars.

    Reference:
        Singh, Deng and Ahn 2022, section 3.
    """
    height = images.shape[-2] // PATCH
    log_chances = model.dvae.encode(images).log_softmax(-1)
    painted = model.dvae.decode(F.gumbel_softmax(log_chances, tau), height)
    one_hots = F.gumbel_softmax(log_chances, tau, hard=True).detach()
    mse = (painted - images).square().sum() / len(images)
    slots, embedded = _attend_slots(model, one_hots)
    predicted = _decode(model, embedded[:, :-1], slots)
    return mse, -(one_hots * predicted.log_softmax(-1)).flatten(1).sum(1).mean()


@torch.no_grad()
def published_generation(model: SLATE, slots: Tensor, lengths: Iterable[int] | None = None) -> Tensor:
    """Write tokens from slots, with a pass over the whole prefix for each.

    Args:
        model: In evaluation mode.
        slots: `(B, K, D)`.
        lengths: Numbers of tokens before those to write, for a measurement that takes a part of the time; tokens that
            are not written are taken to be the first word. None: all.

    Returns:
        Tokens `(B, N)`, int64.
    """
    words, number = model.params.codebook_size, model.embedding.num_tokens
    written = torch.zeros(len(slots), 1 + number, 1 + words, device=slots.device)
    written[:, 0, 0] = 1  # the beginning
    written[:, 1:, 1] = 1
    for length in range(number) if lengths is None else lengths:
        predicted = _decode(model, _embed(model, written[:, : length + 1]), slots)[:, -1]
        written[:, length + 1] = F.pad(F.one_hot(predicted.argmax(-1), words), (1, 0)).to(written.dtype)
    return written[:, 1:, 1:].argmax(-1)


def _attend_slots(model: SLATE, one_hots: Tensor) -> tuple[Tensor, Tensor]:
    """Embed one-hots `(B, N, V)` after the beginning, and find their slots."""
    beginning = torch.zeros_like(one_hots[:, :1])
    whole = torch.cat([F.pad(beginning, (1, 0)), F.pad(one_hots, (1, 0))], 1)
    whole[:, 0, 0] = 1
    embedded = _embed(model, whole)
    core = model.slot_attention
    slots = core.initial_slots(len(embedded))
    keys, values = core.project(model.features(embedded[:, 1:]))
    for _ in range(core.num_iterations):
        slots, _ = core.step(slots, keys, values)
    return slots, embedded


def _embed(model: SLATE, one_hots: Tensor) -> Tensor:
    embedding = model.embedding
    words: Tensor = embedding.words(one_hots.argmax(-1))
    return embedding.dropout(words + embedding.positions[: words.shape[1]])  # type: ignore[no-any-return]


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
