"""Timing of workloads in alternation, so that other load on the machine affects all of them alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import NamedTuple


class Timing(NamedTuple):
    """Durations of one workload."""

    seconds: list[float]
    """Duration of each repetition in seconds per unit of work."""

    @property
    def median(self) -> float:
        """Median duration in seconds."""
        return median(self.seconds)

    def over(self, other: Timing) -> float:
        """Compute the ratio of this workload's duration to another's: the median of the repetitions' paired ratios.

        Example:
            >>> Timing([2.0, 8.0, 6.0]).over(Timing([1.0, 2.0, 2.0]))
            3.0
        """
        return median(ours / theirs for ours, theirs in zip(self.seconds, other.seconds, strict=True))


def time_alternating(workloads: Mapping[str, Callable[[], int]], repeats: int) -> dict[str, Timing]:
    """Time each workload once, then each again, and so on.

    Args:
        workloads: The workloads; each returns the number of units of work that it did.
        repeats: Repetitions of each, at least 1.

    Returns:
        The duration of each workload per unit of work.

    Raises:
        ValueError: If `repeats` is below 1.

    Example:
        >>> timings = time_alternating({"nothing": lambda: 1}, repeats=3)
        >>> len(timings["nothing"].seconds)
        3
    """
    if repeats < 1:
        raise ValueError(f"Expected argument `repeats` to be at least 1, but got {repeats}")
    seconds: dict[str, list[float]] = {name: [] for name in workloads}
    for _ in range(repeats):
        for name, work in workloads.items():
            start = time.perf_counter()
            units = work()
            seconds[name].append((time.perf_counter() - start) / units)
    return {name: Timing(values) for name, values in seconds.items()}
