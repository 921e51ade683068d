"""Schedules: pure functions of the training step, and learning rate reduction on a plateau."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal


def cosine_anneal(step: int, start: float, end: float, steps: int) -> float:
    """Anneal a value from `start` to `end` along half a cosine.

    Args:
        step: Training steps completed, at least 0.
        start: Value at step 0.
        end: Value from step `steps` on.
        steps: Number of steps. 0: `end` from the first step on.

    Example:
        >>> [round(cosine_anneal(step, 1.0, 0.0, 100), 3) for step in (0, 50, 100, 200)]
        [1.0, 0.5, 0.0, 0.0]
    """
    if step >= steps:
        return end
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * step / steps))


def linear_anneal(step: int, start: float, end: float, first: float, last: float) -> float:
    """Anneal a value linearly from `start` at step `first` to `end` at step `last`; it is constant before and after.

    Args:
        step: Training steps completed, at least 0.
        start: Value up to step `first`.
        end: Value from step `last` on.
        first: First step of the interpolation.
        last: Last step of the interpolation, at least `first`.

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
    """Compute the learning rate at a step relative to the peak learning rate.

    Args:
        step: Optimiser steps completed.
        warmup_steps: Steps of the linear warm-up from 0 to 1.
        schedule: `exponential`: `min(1, step / warmup_steps) * 0.5 ** (step / half_life)`, as published for Slot
            Attention; it also decays during the warm-up. `delayed_exponential`: exponential decay from the end of the
            warm-up on, as published for DINOSAUR. `cosine`: cosine decay after the warm-up, to 0 at step
            `decay_steps`. `constant`: 1 after the warm-up.
        decay_steps: Step at which the cosine reaches 0.
        half_life: Steps in which the exponential schedules halve.

    Returns:
        A factor from 0 to 1.

    Reference:
        Locatello et al. 2020, section 4 (exponential); Seitzer et al. 2023 (delayed exponential).

    Example:
        >>> round(learning_rate_factor(
        ...     10_000, warmup_steps=10_000, schedule="exponential", decay_steps=0, half_life=100_000), 4)
        0.933
    """
    warmup = min(1.0, step / warmup_steps) if warmup_steps else 1.0
    if schedule == "exponential":
        return float(warmup * 0.5 ** (step / half_life))
    if schedule == "constant" or step < warmup_steps:
        return warmup
    if schedule == "delayed_exponential":
        return float(0.5 ** ((step - warmup_steps) / half_life))
    return cosine_anneal(step - warmup_steps, 1.0, 0.0, decay_steps - warmup_steps)


@dataclass
class Plateau:
    """Learning rate reduction on a plateau: halve it when a loss has not improved `patience` times in a row.

    Unlike `torch.optim.lr_scheduler.ReduceLROnPlateau` it only computes a factor, which can be combined with any
    schedule over steps. The fields are plain numbers, which a checkpoint can store.

    Args:
        patience: Losses without improvement before a reduction, at least 1.
        best: Lowest loss so far.
        waited: Losses since the lowest one, or since the last reduction.
        halvings: Reductions so far.

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
        """Factor of the learning rate."""
        return float(0.5**self.halvings)

    def update(self, loss: float) -> None:
        """Update the state with the next loss."""
        if loss < self.best:
            self.best, self.waited = loss, 0
            return
        self.waited += 1
        if self.waited == self.patience:
            self.waited, self.halvings = 0, self.halvings + 1
