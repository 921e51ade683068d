import pytest
import torch
import torch.nn.functional as F
from torch import nn

from object_discovery.models.gnm.blocks import GridNorm, UpBlock, mlp


def test_grid_norm_equals_group_norm_with_one_group() -> None:
    torch.manual_seed(0)
    norm, reference = GridNorm(6), nn.GroupNorm(1, 6)
    for module in (norm, reference):
        module.weight.data = torch.arange(6.0)
        module.bias.data = torch.arange(6.0) / 2
    features = torch.randn(3, 5, 6)
    torch.testing.assert_close(norm(features), reference(features.transpose(1, 2)).transpose(1, 2))


@pytest.mark.parametrize("size", [1, 2])
def test_up_block_is_convolution_pixel_shuffle_celu_and_norm(size: int) -> None:
    torch.manual_seed(0)
    block, features = UpBlock(3, 2, 2, 3), torch.randn(2, 3, size, size)
    shuffled = F.pixel_shuffle(block.convolution(features), 2)
    torch.testing.assert_close(block(features), F.group_norm(F.celu(shuffled), 1))
    block(features).square().sum().backward()
    assert block.convolution.weight.grad is not None


def test_mlp_ends_in_a_linear_layer_unless_output_activation_is_set() -> None:
    block = [nn.Linear, nn.CELU, nn.LayerNorm]
    assert [type(layer) for layer in mlp([2, 3, 4])] == [*block, nn.Linear]
    assert [type(layer) for layer in mlp([2, 3], output_activation=True)] == block
