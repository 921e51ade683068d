"""Everything that changes in the course of training: pure functions of the step, and what waits for a plateau."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal


def cosine_anneal(step: int, start: float, end: float, steps: int) -> float:
    """Go from `start` to `end` along half a cosine over `steps` steps, then stay.

    Args:
        step: Steps done, at least 0.
        start: Value at step 0.
        end: Value from step `steps` on.
        steps: Length; 0 for the end at once.

    Example:
        >>> [round(cosine_anneal(step, 1.0, 0.0, 100), 3) for step in (0, 50, 100, 200)]
        [1.0, 0.5, 0.0, 0.0]
    """
    if step >= steps:
        return end
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * step / steps))


def linear_anneal(step: int, start: float, end: float, first: float, last: float) -> float:
    """Stay at `start` until step `first`, go to `end` in a straight line until step `last`, then stay.

    Args:
        step: Steps done, at least 0.
        start: Value until step `first`.
        end: Value from step `last` on.
        first: Where the line begins.
        last: Where it ends; no less than `first`.

    Example:
        >>> [linear_anneal(step, 1.0, 0.5, 100, 200) for step in (0, 100, 150, 300)]
        [1.0, 1.0, 0.75, 0.5]
    """
    if step >= last:
        return end
    return start if step <= first else start + (end - start) * (step - first) / (last - first)


def learning_rate_factor(
    step: int,
    *,
    warmup_steps: int,
    schedule: Literal["cosine", "exponential", "delayed_exponential", "constant"],
    decay_steps: int,
    half_life: int,
) -> float:
    """Return what the peak learning rate is multiplied by at a step.

    Args:
        step: Steps done; the first step of the optimiser is step 0.
        warmup_steps: Steps of a linear rise from 0 to 1.
        schedule: `exponential`: the published `min(1, step / warmup_steps) * 0.5 ** (step / half_life)`, which also
            decays during the warm-up. `delayed_exponential`: it decays from the end of the warm-up on. `cosine`: after
            the warm-up along half a cosine to 0 at `decay_steps`. `constant`: 1 after the warm-up.
        decay_steps: End of the cosine.
        half_life: Steps over which the exponential halves.

    Reference:
        Locatello et al. 2020, section 4 (exponential); Seitzer et al. 2023 (delayed exponential).

    Example:
        >>> round(learning_rate_factor(
        ...     10_000, warmup_steps=10_000, schedule="exponential", decay_steps=0, half_life=100_000), 4)
        0.933
    """
    warm = min(1.0, step / warmup_steps) if warmup_steps else 1.0
    if schedule == "exponential":
        return float(warm * 0.5 ** (step / half_life))
    if schedule == "constant" or step < warmup_steps:
        return warm
    if schedule == "delayed_exponential":
        return float(0.5 ** ((step - warmup_steps) / half_life))
    return cosine_anneal(step - warmup_steps, 1.0, 0.0, decay_steps - warmup_steps)


@dataclass
class Plateau:
    """Halve a learning rate whenever a loss has not improved `patience` times in a row.

    A factor for the learning rate to be multiplied by, so that it acts together with any schedule over steps. The
    fields are plain numbers, which a checkpoint can hold.

    Args:
        patience: Losses without a new best before the next halving, at least 1.
        best: The best loss so far.
        waited: Losses since the best one, or since the last halving.
        halvings: Halvings so far.

    Example:
        >>> plateau = Plateau(patience=2)
        >>> for loss in (3.0, 4.0, 3.5, 2.0):
        ...     plateau.update(loss)
        >>> plateau.factor
        0.5
    """

    patience: int
    best: float = math.inf
    waited: int = 0
    halvings: int = 0

    @property
    def factor(self) -> float:
        """What learning rates are multiplied by."""
        return float(0.5**self.halvings)

    def update(self, loss: float) -> None:
        """Take note of a loss."""
        if loss < self.best:
            self.best, self.waited = loss, 0
            return
        self.waited += 1
        if self.waited == self.patience:
            self.waited, self.halvings = 0, self.halvings + 1
