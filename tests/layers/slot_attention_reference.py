"""Reference implementation of Slot Attention for one image, with the weights of a module, and small modules."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from object_discovery.layers import SlotAttention
from object_discovery.layers.slot_attention import Gradient

MODES: tuple[Gradient, ...] = ("full", "implicit", "bilevel")


def make_core(num_slots: int = 3, slot_size: int = 8, input_size: int = 5, **settings: Any) -> SlotAttention:
    """Create a small float64 core with perturbed parameters."""
    torch.manual_seed(0)
    core = SlotAttention(num_slots, slot_size, input_size, mlp_size=11, **settings).double()
    with torch.no_grad():
        for parameter in core.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return core


def make_inputs(core: SlotAttention, batch: int = 2, inputs: int = 7, slots: int = 3) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    size = core.to_key.in_features
    return torch.randn(batch, inputs, size).double(), torch.randn(batch, slots, core.slot_size).double()


def layer_norm(x: Tensor, weights: Mapping[str, Tensor], name: str, eps: float = 1e-5) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / ((centred**2).mean(-1, keepdim=True) + eps) ** 0.5
    return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def gru(x: Tensor, h: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
    from_x = (x @ weights["gru.weight_ih"].T + weights["gru.bias_ih"]).chunk(3, dim=1)
    from_h = (h @ weights["gru.weight_hh"].T + weights["gru.bias_hh"]).chunk(3, dim=1)
    reset = 1 / (1 + torch.exp(-(from_x[0] + from_h[0])))
    update = 1 / (1 + torch.exp(-(from_x[1] + from_h[1])))
    new = torch.tanh(from_x[2] + reset * from_h[2])
    return (1 - update) * new + update * h


def attend(queries: Tensor, keys: Tensor, heads: int) -> Tensor:
    """Compute the attention, `(heads, N, K)`: softmax over heads and slots."""
    size = queries.shape[1] // heads
    parts = [slice(h * size, (h + 1) * size) for h in range(heads)]
    scores = torch.stack([torch.exp(keys[:, p] @ queries[:, p].T / math.sqrt(size)) for p in parts])
    return scores / scores.sum((0, 2), keepdim=True)


def reference_step(
    x: Tensor, slots: Tensor, weights: Mapping[str, Tensor], heads: int, aggregation: str
) -> tuple[Tensor, Tensor]:
    """Do one iteration for one image with inputs `(N, D_in)` and slots `(K, D)`."""
    x = layer_norm(x, weights, "norm_inputs")
    keys, values = x @ weights["to_key.weight"].T, x @ weights["to_value.weight"].T
    queries = layer_norm(slots, weights, "norm_slots") @ weights["to_query.weight"].T
    attention = attend(queries, keys, heads)
    if aggregation == "mean":
        normalised = attention + 1e-8
        normalised = normalised / normalised.sum(1, keepdim=True)
    else:
        normalised = attention / len(x)
    size = slots.shape[1] // heads
    updates = torch.cat([normalised[h].T @ values[:, h * size : (h + 1) * size] for h in range(heads)], dim=1)
    slots = gru(updates, slots, weights)
    hidden = layer_norm(slots, weights, "norm_mlp") @ weights["mlp.0.weight"].T + weights["mlp.0.bias"]
    return slots + hidden.clamp(min=0) @ weights["mlp.2.weight"].T + weights["mlp.2.bias"], attention.sum(0).T


def reference_forward(
    core: SlotAttention, inputs: Tensor, slots: Tensor, iterations: int, aggregation: str = "mean"
) -> tuple[Tensor, Tensor]:
    weights = dict(core.named_parameters())
    results: list[tuple[Tensor, Tensor]] = []
    for x, image_slots in zip(inputs, slots, strict=True):
        for _ in range(iterations):
            image_slots, attention = reference_step(x, image_slots, weights, core.num_heads, aggregation)
        results.append((image_slots, attention))
    return torch.stack([slots for slots, _ in results]), torch.stack([attention for _, attention in results])
