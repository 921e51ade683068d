"""Slot Attention (Locatello et al. 2020) against google-research/google-research, slot_attention (TensorFlow)."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from object_discovery.layers import slot_attention
from object_discovery.layers.compositing import slot_softmax
from object_discovery.layers.slot_attention import SlotAttention
from tests.fidelity.official import Official, assert_same

OFFICIAL = Official("sa_core")
DEVIATION = {"attn_logits": 4.0e-6, "k": 2.3e-6, "v": 1.5e-6, "slots": 1.7e-6}
"""How far official outputs are from those of our layer in float64; 0 where ten times as much is below 1e-5."""
every_iteration = pytest.mark.parametrize("iteration", [0, 1, 2])


def official_weights() -> dict[str, Tensor]:
    """Return the weights by the paths of their attributes; the names of variables only count the layers."""
    paths = (path.removeprefix("network/") for path in OFFICIAL.text("weight_ckpt_keys"))
    return {path: OFFICIAL[f"w/{name}"] for path, name in zip(paths, OFFICIAL.text("weight_names"), strict=True)}


def torch_gates(weight: Tensor) -> Tensor:
    """Bring the gates from the order of Keras (update, reset, new), last, to that of torch, first."""
    update, reset, new = weight.movedim(-1, 0).chunk(3)
    return torch.cat([reset, update, new])


def official_layer() -> SlotAttention:
    """Build our layer with the official weights."""
    weights = official_weights()
    layer = SlotAttention(
        num_slots=5,
        slot_size=64,
        mlp_size=128,
        epsilon=float(OFFICIAL["attn_epsilon"]),
        norm_eps=float(OFFICIAL["layernorm_epsilon"]),
    )
    state = {"mu": weights["slots_mu"], "log_sigma": weights["slots_log_sigma"]}
    for norm in ("norm_inputs", "norm_slots", "norm_mlp"):
        state |= {f"{norm}.weight": weights[f"{norm}/gamma"], f"{norm}.bias": weights[f"{norm}/beta"]}
    for ours, theirs in (("to_query", "project_q"), ("to_key", "project_k"), ("to_value", "project_v")):
        state[f"{ours}.weight"] = weights[f"{theirs}/kernel"].T
    state |= {
        "gru.weight_ih": torch_gates(weights["gru/kernel"]),
        "gru.weight_hh": torch_gates(weights["gru/recurrent_kernel"]),
        "gru.bias_ih": torch_gates(weights["gru/bias"][0]),
        "gru.bias_hh": torch_gates(weights["gru/bias"][1]),
    }
    for ours, theirs in (("mlp.0", "mlp/layer_with_weights-0"), ("mlp.2", "mlp/layer_with_weights-1")):
        state |= {f"{ours}.weight": weights[f"{theirs}/kernel"].T, f"{ours}.bias": weights[f"{theirs}/bias"]}
    layer.load_state_dict(state)
    return layer


@pytest.fixture
def layer() -> SlotAttention:
    return official_layer()


def slots_before(iteration: int) -> Tensor:
    return OFFICIAL["slots"][iteration - 1] if iteration else OFFICIAL["slots_init"]


def test_epsilon_of_the_attention_is_our_default() -> None:
    assert SlotAttention().epsilon == float(OFFICIAL["attn_epsilon"])


def test_initial_slots_from_the_same_noise(layer: SlotAttention, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = OFFICIAL["slot_noise"]
    monkeypatch.setattr(torch, "randn", lambda *shape, **options: noise)
    assert_same(layer.initial_slots(2), OFFICIAL["slots_init"])


def test_normalised_inputs_keys_and_values(layer: SlotAttention) -> None:
    inputs = layer.norm_inputs(OFFICIAL["inputs"])
    assert_same(inputs, OFFICIAL["norm_inputs_out"])
    assert_same(layer.to_key(inputs), OFFICIAL["k"], DEVIATION["k"])
    keys, values = layer.project(OFFICIAL["inputs"])
    assert_same(keys[:, 0], OFFICIAL["k"] * 64**-0.5)  # we scale keys, they scale queries
    assert_same(values[:, 0], OFFICIAL["v"], DEVIATION["v"])


@every_iteration
def test_logits_attention_update_gru_and_slots_of_an_iteration(
    layer: SlotAttention, iteration: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits: list[Tensor] = []
    gru: list[Tensor] = []

    def softmax(inputs: Tensor, dim: int, present: Tensor | None = None) -> Tensor:
        logits.append(inputs)
        return slot_softmax(inputs, dim, present)

    def keep(module: nn.Module, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        gru.extend([inputs[0].view(2, 5, 64), output.view(2, 5, 64)])

    monkeypatch.setattr(slot_attention, "slot_softmax", softmax)
    layer.gru.register_forward_hook(keep)
    keys, values = layer.project(OFFICIAL["inputs"])
    slots, attention = layer.step(slots_before(iteration), keys, values)

    assert_same(logits[0], OFFICIAL["attn_logits"][iteration].mT, DEVIATION["attn_logits"])
    assert_same(attention, OFFICIAL["attn_softmax"][iteration].mT)
    assert_same(gru[0], OFFICIAL["updates"][iteration])
    assert_same(gru[1], OFFICIAL["gru_out"][iteration])
    assert_same(slots, OFFICIAL["slots"][iteration], DEVIATION["slots"])


@every_iteration
def test_attention_normalised_over_the_inputs(layer: SlotAttention, iteration: int) -> None:
    attention = OFFICIAL["attn_softmax"][iteration].mT[:, None]
    each_input = torch.eye(50).expand(2, 1, 50, 50)  # as values: the weighted mean of these is the weights
    assert_same(layer.aggregate(attention, each_input)[:, 0], OFFICIAL["attn_normalized"][iteration].mT)


@every_iteration
def test_slots_and_attention_after_iterations_from_the_start(layer: SlotAttention, iteration: int) -> None:
    slots, attention = layer(OFFICIAL["inputs"], OFFICIAL["slots_init"], num_iterations=iteration + 1)
    assert_same(slots, OFFICIAL["slots"][iteration], DEVIATION["slots"])
    assert_same(attention, OFFICIAL["attn_softmax"][iteration].mT)
