"""Multiply-accumulate operations (MACs) of a computation, from the shapes of its operands.

Counted are linear layers, matrix products, convolutions, GRU cells and scaled dot-product attention, which is all of a
network but elementwise operations and reductions. Attention under a causal mask counts as full attention.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


class Product(NamedTuple):
    """A product of two tensors: matrix product or convolution."""

    macs: int
    """MACs of its forward pass."""
    requires_grad: tuple[bool, bool]
    """Whether the gradient with respect to each operand is computed; each gradient costs as much as the product."""


class MACCounter(TorchFunctionMode):
    """Context manager that counts the MACs of the forward passes within it, and of their backward passes.

    The gradient of a product with respect to one of its operands is a product with the same number of MACs. It counts
    where the operand requires a gradient and gradients are enabled, whether or not `backward` is called.

    Attributes:
        forward: MACs of forward passes.
        backward: MACs of backward passes.

    Example:
        >>> layer = torch.nn.Linear(3, 5)
        >>> with MACCounter() as counter:
        ...     _ = layer(torch.zeros(2, 3))
        >>> counter.forward, counter.backward  # only the weight requires a gradient
        (30, 30)
    """

    def __init__(self) -> None:
        super().__init__()
        self.forward = 0
        self.backward = 0

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call a function of PyTorch, and count its products."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        list_products = _PRODUCTS.get(getattr(func, "__name__", ""))
        for product in list_products(result, *args, **kwargs) if list_products else ():
            self.forward += product.macs
            self.backward += product.macs * sum(product.requires_grad)
        return result


def count_flops(run: Callable[[], object]) -> int:
    """Count the floating-point operations of a computation, two for each MAC, with the backward pass.

    Example:
        >>> count_flops(lambda: torch.zeros(2, 3) @ torch.zeros(3, 5))
        60
    """
    counter = MACCounter()
    with counter:
        run()
    return 2 * (counter.forward + counter.backward)


def _product(macs: int, first: Tensor, second: Tensor) -> Product:
    is_enabled = torch.is_grad_enabled()
    return Product(macs, (is_enabled and first.requires_grad, is_enabled and second.requires_grad))


def _linear(output: Tensor, input: Tensor, weight: Tensor, *_: Any, **__: Any) -> list[Product]:
    return [_product(output.numel() * weight.shape[-1], input, weight)]


def _matmul(output: Tensor, input: Tensor, other: Tensor, *_: Any, **__: Any) -> list[Product]:
    return [_product(output.numel() * input.shape[-1], input, other)]


def _convolution(output: Tensor, input: Tensor, weight: Tensor, *_: Any, **__: Any) -> list[Product]:
    """The weight is `(C_out, C_in / groups, *kernel)`: so many MACs for each output value."""
    return [_product(output.numel() * weight[0].numel(), input, weight)]


def _gru_cell(
    output: Tensor, input: Tensor, hidden: Tensor, weight_input: Tensor, weight_hidden: Tensor, *_: Any, **__: Any
) -> list[Product]:
    pairs = ((input, weight_input), (hidden, weight_hidden))
    return [_product(len(output) * weight.numel(), operand, weight) for operand, weight in pairs]


def _attention(output: Tensor, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> list[Product]:
    """The products Q K^T and softmax(Q K^T) V, of `(..., L, E)`, `(..., S, E)` and `(..., S, E_v)`."""
    weights = math.prod(output.shape[:-1]) * key.shape[-2]
    is_enabled = torch.is_grad_enabled()
    gradients = (query.requires_grad or key.requires_grad, value.requires_grad)
    return [
        _product(weights * query.shape[-1], query, key),
        Product(weights * value.shape[-1], (is_enabled and gradients[0], is_enabled and gradients[1])),
    ]


_PRODUCTS: dict[str, Callable[..., list[Product]]] = {
    "linear": _linear,
    **dict.fromkeys(("matmul", "__matmul__", "mm", "bmm"), _matmul),
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), _convolution),
    "gru_cell": _gru_cell,
    "scaled_dot_product_attention": _attention,
}
"""The products of each function of PyTorch's Python interface, by its name."""
