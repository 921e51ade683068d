"""Cross-entropy of tokens with chunked logits."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

_LOGITS = {"cpu": 1 << 20}  # logits per chunk, which fit into the cache; 2^26 on other devices


def token_cross_entropy(features: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Compute `cross_entropy(linear(features, weight), targets)` without storing the logits.

    The gradient is computed together with the value, chunk by chunk, so that neither the logits of all tokens nor their
    softmax are ever in memory.

    Args:
        features: `(M, d)`.
        weight: Weight of the linear layer to logits, `(V, d)`.
        targets: Tokens `(M,)`, int64 in [0, V).

    Returns:
        Sum over tokens, a differentiable float32 scalar (float64 for float64 features); and the cross-entropy of each
        token, `(M,)`, without gradient.

    Example:
        >>> total, each = token_cross_entropy(torch.zeros(3, 8), torch.zeros(4, 8), torch.tensor([0, 3, 1]))
        >>> each  # uniform: log 4
        tensor([1.3863, 1.3863, 1.3863])
    """
    device = features.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        features, weight = features.to(dtype), weight.to(dtype)
    with torch.autocast(device, enabled=False):
        total, each = _TokenCrossEntropy.apply(features, weight, targets)  # type: ignore[no-untyped-call]
    return total, each


class _TokenCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        exact = torch.promote_types(features.dtype, torch.float32)
        each = torch.empty(len(features), dtype=exact, device=features.device)
        to_features = torch.empty_like(features) if ctx.needs_input_grad[0] else None
        to_weight = torch.zeros_like(weight, dtype=exact) if ctx.needs_input_grad[1] else None
        rows = max(1, _LOGITS.get(features.device.type, 1 << 26) // len(weight))
        for start in range(0, len(features), rows):
            rows_slice = slice(start, start + rows)
            labels = targets[rows_slice, None]
            logs = F.linear(features[rows_slice], weight).to(exact).log_softmax(-1)
            each[rows_slice] = -logs.gather(1, labels).squeeze(1)
            if to_features is None and to_weight is None:
                continue
            probabilities = logs.exp_()
            to_logits = probabilities.scatter_add_(1, labels, -torch.ones_like(labels, dtype=exact)).to(features.dtype)
            if to_features is not None:
                torch.mm(to_logits, weight, out=to_features[rows_slice])
            if to_weight is not None:
                to_weight += to_logits.T @ features[rows_slice]
        ctx.save_for_backward(to_features, to_weight)
        ctx.dtypes = features.dtype, weight.dtype
        ctx.mark_non_differentiable(each)
        return each.sum(), each

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        saved = zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        to_features, to_weight = (None if value is None else (gradient * value).to(dtype) for value, dtype in saved)
        return to_features, to_weight, None
