import math

import pytest
import torch
from torch import nn

from object_discovery.layers.weight_init import keras_init


@pytest.mark.parametrize(
    ("layer", "fans"),
    [
        (nn.Linear(60, 200), 60 + 200),
        (nn.Conv2d(16, 48, 5), 25 * (16 + 48)),
        (nn.ConvTranspose2d(16, 48, 5), 25 * (16 + 48)),
    ],
)
def test_keras_init_is_glorot_uniform_with_zero_biases(layer: nn.Linear | nn.Conv2d, fans: int) -> None:
    torch.manual_seed(0)
    layer.apply(keras_init)
    bound = math.sqrt(6 / fans)
    assert 0.99 * bound < layer.weight.abs().max() <= bound
    assert layer.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)
    assert layer.weight.mean().abs() < 0.02 * bound
    assert layer.bias is not None
    assert not layer.bias.any()


def test_keras_init_of_a_layer_without_bias() -> None:
    layer = nn.Linear(3, 4, bias=False).apply(keras_init)
    assert layer.weight.abs().max() <= math.sqrt(6 / 7)


def test_keras_init_of_gru_is_glorot_for_inputs_and_orthogonal_for_state() -> None:
    torch.manual_seed(0)
    cell = nn.GRUCell(32, 64)
    cell.apply(keras_init)
    bound = math.sqrt(6 / (32 + 3 * 64))  # Keras concatenates the three gates
    assert 0.99 * bound < cell.weight_ih.abs().max() <= bound
    torch.testing.assert_close(cell.weight_hh.T @ cell.weight_hh, torch.eye(64), rtol=0, atol=1e-5)
    assert not cell.bias_ih.any()
    assert not cell.bias_hh.any()


def test_keras_init_applies_to_nested_modules_and_skips_other_types() -> None:
    torch.manual_seed(0)
    norm = nn.LayerNorm(4)
    nn.init.constant_(norm.weight, 3.0)
    inner = nn.Linear(4, 4)
    nn.Sequential(nn.Sequential(inner), norm).apply(keras_init)
    assert not inner.bias.any()
    assert torch.equal(norm.weight, torch.full((4,), 3.0))
