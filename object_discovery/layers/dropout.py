"""Dropout with fast random numbers on the CPU."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_LEVELS = 1 << 16


def dropout(inputs: Tensor, probability: float, training: bool = True) -> Tensor:
    """Apply dropout (Srivastava et al. 2014).

    On the CPU each entry takes 16 random bits, about five times as fast as the Bernoulli samples of torch; the
    probability is rounded to a multiple of 1 / 65536, at most 65535 / 65536. On other devices this is `F.dropout`.

    Args:
        inputs: Any shape.
        probability: Probability of an entry to be zeroed, in [0, 1).
        training: Apply it. False: return the inputs.

    Example:
        >>> sorted(set(dropout(torch.ones(1000), 0.5).tolist()))
        [0.0, 2.0]
    """
    threshold = min(round(probability * _LEVELS), _LEVELS - 1)
    if not training or not threshold:
        return inputs
    if inputs.device.type != "cpu":
        return F.dropout(inputs, probability)
    count = inputs.numel()
    bits = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)[:count]
    mask = bits.ge_(threshold - _LEVELS // 2).to(inputs.dtype).mul_(_LEVELS / (_LEVELS - threshold))
    return inputs * mask.view(inputs.shape)


class Dropout(nn.Dropout):
    """Dropout layer, see `dropout`.

    Example:
        >>> Dropout(0.1).eval()(torch.ones(2))
        tensor([1., 1.])
    """

    def forward(self, inputs: Tensor) -> Tensor:
        """Apply dropout to inputs of any shape."""
        return dropout(inputs, self.p, self.training)
