import itertools
import math
from collections.abc import Callable

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from object_discovery.benchmarks.arithmetic import MACCounter, count_flops


def loop_matmul(first: Tensor, second: Tensor) -> tuple[Tensor, int]:
    """Multiply `(N, K)` and `(K, M)` entry by entry; also return the number of multiplications."""
    output, count = torch.zeros(first.shape[0], second.shape[1]), 0
    for n, m, k in itertools.product(range(first.shape[0]), range(second.shape[1]), range(first.shape[1])):
        output[n, m] += first[n, k] * second[k, m]
        count += 1
    return output, count


def loop_convolution(image: Tensor, weight: Tensor, stride: int, groups: int) -> tuple[Tensor, int]:
    """Convolve an image `(C, H, W)` entry by entry, without padding; also return the number of multiplications."""
    out_channels, group_channels, height, width = weight.shape
    rows, columns = (
        (size - kernel) // stride + 1 for size, kernel in zip(image.shape[1:], (height, width), strict=True)
    )
    output, count = torch.zeros(out_channels, rows, columns), 0
    for channel, row, column in itertools.product(range(out_channels), range(rows), range(columns)):
        first = channel // (out_channels // groups) * group_channels
        for c, y, x in itertools.product(range(group_channels), range(height), range(width)):
            value = image[first + c, row * stride + y, column * stride + x]
            output[channel, row, column] += value * weight[channel, c, y, x]
            count += 1
    return output, count


def loop_attention(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, int]:
    """Attend with `(L, E)`, `(S, E)` and `(S, V)` entry by entry; also return the number of multiplications."""
    logits, logit_count = loop_matmul(query, key.T)
    output, output_count = loop_matmul((logits / query.shape[1] ** 0.5).softmax(-1), value)
    return output, logit_count + output_count


def count_macs(function: Callable[..., object], *inputs: Tensor) -> tuple[int, int]:
    """Return the MACs of the forward and backward pass."""
    counter = MACCounter()
    with counter:
        function(*inputs)
    return counter.forward, counter.backward


def test_linear_layer_equals_a_loop() -> None:
    torch.manual_seed(0)
    layer, inputs = nn.Linear(3, 5), torch.randn(4, 3)
    output, count = loop_matmul(inputs, layer.weight.T)
    torch.testing.assert_close(layer(inputs), output + layer.bias)
    assert count_macs(layer, inputs) == (count, count)  # backward to the weight
    assert count_macs(layer, inputs.clone().requires_grad_()) == (count, 2 * count)


@pytest.mark.parametrize(("stride", "groups"), [(1, 1), (2, 1), (1, 2)])
def test_convolution_equals_a_loop(stride: int, groups: int) -> None:
    torch.manual_seed(0)
    layer, image = nn.Conv2d(2, 4, (3, 2), stride, groups=groups, bias=False), torch.randn(2, 5, 6)
    output, count = loop_convolution(image, layer.weight, stride, groups)
    torch.testing.assert_close(layer(image[None])[0], output)
    assert count_macs(layer, image[None].expand(3, -1, -1, -1)) == (3 * count, 3 * count)


def test_padding_counts_like_pixels() -> None:
    layer, image = nn.Conv2d(2, 3, 3, padding=1), torch.zeros(1, 2, 4, 4)
    _, count = loop_convolution(F.pad(image[0], (1, 1, 1, 1)), layer.weight, 1, 1)
    assert count_macs(layer, image)[0] == count


@pytest.mark.parametrize("product", [torch.matmul, torch.mm, lambda first, second: first @ second])
def test_matrix_product_equals_a_loop(product: Callable[..., Tensor]) -> None:
    torch.manual_seed(0)
    first, second = torch.randn(2, 3, requires_grad=True), torch.randn(3, 4, requires_grad=True)
    output, count = loop_matmul(first, second)
    torch.testing.assert_close(product(first, second), output)
    assert count_macs(product, first, second) == (count, 2 * count)
    assert count_macs(product, first.detach(), second) == (count, count)
    with torch.no_grad():
        assert count_macs(product, first, second) == (count, 0)


def test_batched_matrix_product_broadcasts() -> None:
    assert count_flops(lambda: torch.zeros(5, 1, 2, 3) @ torch.zeros(7, 3, 4)) == 2 * 5 * 7 * 2 * 3 * 4
    assert count_flops(lambda: torch.bmm(torch.zeros(5, 2, 3), torch.zeros(5, 3, 4))) == 2 * 5 * 2 * 3 * 4


def test_attention_equals_a_loop() -> None:
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 4), torch.randn(5, 4), torch.randn(5, 4)
    output, count = loop_attention(query, key, value)
    q, k, v = (tensor.expand(2, 6, -1, -1) for tensor in (query, key, value))  # 2 images, 6 heads
    torch.testing.assert_close(F.scaled_dot_product_attention(q, k, v)[1, 5], output)
    assert count_flops(lambda: F.scaled_dot_product_attention(q, k, v)) == 2 * 12 * count
    attend = F.scaled_dot_product_attention
    # with the gradients of the query and the attention weights; then also of the key and the value
    assert count_macs(attend, query.clone().requires_grad_(), key, value) == (count, count)
    inputs = [tensor.clone().requires_grad_() for tensor in (query, key, value)]
    assert count_macs(attend, *inputs) == (count, 2 * count)


def test_attention_counts_the_same_fused_and_as_matrix_products() -> None:
    query, key, value = (torch.zeros(2, 6, size, 4, requires_grad=True) for size in (3, 5, 5))

    def explicit() -> Tensor:
        return (query @ key.transpose(-1, -2)).softmax(-1) @ value

    assert count_flops(explicit) == count_flops(lambda: F.scaled_dot_product_attention(query, key, value))


def test_gru_cell_counts_six_matrices() -> None:
    cell = nn.GRUCell(3, 5)
    inputs, hidden = torch.zeros(2, 3), torch.zeros(2, 5, requires_grad=True)
    forward = 2 * 3 * 5 * (3 + 5)
    assert count_macs(cell, inputs, hidden) == (forward, 2 * 3 * 5 * (3 + 2 * 5))


def test_vision_transformer_equals_the_formula_of_its_layers() -> None:
    size, patch, width, depth, ratio = 32, 8, 24, 2, 3
    encoder = timm.create_model(
        "vit_tiny_patch16_224",
        img_size=size,
        patch_size=patch,
        embed_dim=width,
        depth=depth,
        num_heads=4,
        mlp_ratio=ratio,
        num_classes=0,
    )
    patches = (size // patch) ** 2
    tokens = patches + 1
    linear = tokens * width * (3 + 1 + 2 * ratio) * width  # query, key, value; output; MLP
    attention = 2 * tokens * tokens * width
    embedding = patches * 3 * patch**2 * width
    with torch.no_grad():
        flops = count_flops(lambda: encoder(torch.zeros(2, 3, size, size)))
    assert flops == 2 * 2 * (embedding + depth * (linear + attention))


def test_convolutional_encoder_equals_the_formula_of_its_layers() -> None:
    encoder = timm.create_model("test_efficientnet", num_classes=0).eval()
    counts: list[int] = []

    def add(layer: nn.Module, _: object, output: Tensor) -> None:
        assert isinstance(layer, nn.Conv2d)
        kernel = math.prod(layer.kernel_size)
        counts.append(output.numel() * layer.in_channels // layer.groups * kernel)

    for layer in encoder.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(add)
    with torch.no_grad():
        flops = count_flops(lambda: encoder(torch.zeros(2, 3, 32, 32)))
    assert flops == 2 * sum(counts) > 0
