"""The cross-entropy of tokens, from features: the logits of few tokens exist at a time."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

_LOGITS = {"cpu": 1 << 20}  # logits at a time: what fits into the caches; 2^26 elsewhere


def token_cross_entropy(features: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Compare the tokens that features predict with those that there are.

    The same as `cross_entropy(linear(features, weight), targets)`. The gradient is computed along with the value, part
    by part, so that neither the logits of all tokens nor their softmax are ever stored.

    Args:
        features: `(M, d)`.
        weight: From features to logits, `(V, d)`.
        targets: Tokens `(M,)`, int64 in [0, V).

    Returns:
        The sum over tokens, a float32 scalar with a gradient (float64 if the features are); and the cross-entropy of
        each, `(M,)`, without one.

    Example:
        >>> total, each = token_cross_entropy(torch.zeros(3, 8), torch.zeros(4, 8), torch.tensor([0, 3, 1]))
        >>> each  # nothing is known: log 4
        tensor([1.3863, 1.3863, 1.3863])
    """
    kind = features.device.type
    if torch.is_autocast_enabled(kind):
        dtype = torch.get_autocast_dtype(kind)
        features, weight = features.to(dtype), weight.to(dtype)
    with torch.autocast(kind, enabled=False):
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
            some = slice(start, start + rows)
            known = targets[some, None]
            logs = F.linear(features[some], weight).to(exact).log_softmax(-1)
            each[some] = -logs.gather(1, known).squeeze(1)
            if to_features is None and to_weight is None:
                continue
            chances = logs.exp_()
            to_logits = chances.scatter_add_(1, known, -torch.ones_like(known, dtype=exact)).to(features.dtype)
            if to_features is not None:
                torch.mm(to_logits, weight, out=to_features[some])
            if to_weight is not None:
                to_weight += to_logits.T @ features[some]
        ctx.save_for_backward(to_features, to_weight)
        ctx.dtypes = features.dtype, weight.dtype
        ctx.mark_non_differentiable(each)
        return each.sum(), each

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        kept = zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        to_features, to_weight = (None if value is None else (gradient * value).to(dtype) for value, dtype in kept)
        return to_features, to_weight, None
