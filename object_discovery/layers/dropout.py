"""Dropout whose random numbers cost little on the CPU."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_LEVELS = 1 << 16


def dropout(inputs: Tensor, share: float, training: bool = True) -> Tensor:
    """Set a share of the entries to 0, and scale the others so that the mean stays.

    On the CPU each entry takes 16 random bits, where torch draws from a Bernoulli distribution: about a fifth of the
    time. The share is met to within 1 / 131072, and is at most 65535 / 65536. On other devices it is torch's own.

    Args:
        inputs: Of any shape.
        share: Share of the entries to drop, in [0, 1).
        training: Return the inputs as they are if not.

    Example:
        >>> sorted(set(dropout(torch.ones(1000), 0.5).tolist()))
        [0.0, 2.0]
    """
    dropped = min(round(share * _LEVELS), _LEVELS - 1)
    if not training or not dropped:
        return inputs
    if inputs.device.type != "cpu":
        return F.dropout(inputs, share)
    count = inputs.numel()
    bits = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)[:count]
    kept = bits.ge_(dropped - _LEVELS // 2).to(inputs.dtype).mul_(_LEVELS / (_LEVELS - dropped))
    return inputs * kept.view(inputs.shape)


class Dropout(nn.Dropout):
    """Drop entries in training, see `dropout`.

    Example:
        >>> Dropout(0.1).eval()(torch.ones(2))
        tensor([1., 1.])
    """

    def forward(self, inputs: Tensor) -> Tensor:
        """Drop entries of inputs of any shape."""
        return dropout(inputs, self.p, self.training)
