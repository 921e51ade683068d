"""Time several ways to do the same, in turn, so that what else the machine does falls on all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import NamedTuple

from object_discovery.errors import check_argument


class Timing(NamedTuple):
    """How long one way took."""

    seconds: list[float]
    """Time of each repetition for one unit of work."""

    @property
    def median(self) -> float:
        """Median time in seconds."""
        return median(self.seconds)

    def over(self, other: Timing) -> float:
        """Return how many times as long this way takes: the median over the repetitions, which are compared in pairs.

        Example:
            >>> Timing([2.0, 8.0, 6.0]).over(Timing([1.0, 2.0, 2.0]))
            3.0
        """
        return median(mine / its for mine, its in zip(self.seconds, other.seconds, strict=True))


def check_precision(precision: str) -> None:
    """Refuse a precision that a training step is not measured in.

    Raises:
        ValueError: If it is one.
    """
    check_argument(
        precision in ("auto", "bf16-mixed", "32-true"), "precision", "auto, bf16-mixed or 32-true", precision
    )


def time_in_turn(ways: Mapping[str, Callable[[], int]], repeats: int) -> dict[str, Timing]:
    """Time each way once, then each again, and so on.

    Args:
        ways: What to time; each returns how many units of work it did.
        repeats: Repetitions of each, at least 1.

    Returns:
        The times for one unit of work of each way.

    Raises:
        ValueError: If `repeats` is below 1.

    Example:
        >>> timings = time_in_turn({"nothing": lambda: 1}, repeats=3)
        >>> len(timings["nothing"].seconds)
        3
    """
    if repeats < 1:
        raise ValueError(f"Expected argument `repeats` to be at least 1, but got {repeats}")
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            start = time.perf_counter()
            units = way()
            seconds[name].append((time.perf_counter() - start) / units)
    return {name: Timing(values) for name, values in seconds.items()}
