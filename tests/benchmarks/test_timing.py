import time

import pytest

from object_discovery.benchmarks.timing import Timing, time_in_turn


def test_ways_are_timed_in_turn_for_a_unit_of_work() -> None:
    order: list[str] = []

    def work(name: str, seconds: float, units: int) -> int:
        order.append(name)
        time.sleep(seconds)
        return units

    timings = time_in_turn({"slow": lambda: work("slow", 0.02, 1), "fast": lambda: work("fast", 0.02, 10)}, 3)
    assert order == ["slow", "fast"] * 3
    assert min(timings["slow"].seconds) >= 0.02
    assert 0.002 <= timings["fast"].median < 0.02


def test_ratios_are_of_pairs() -> None:
    first, second = Timing([3.0, 30.0, 8.0]), Timing([1.0, 10.0, 4.0])
    assert first.over(second) == 3.0
    assert (first.median, second.median) == (8.0, 4.0)


def test_no_repetition() -> None:
    with pytest.raises(ValueError, match="Expected argument `repeats` to be at least 1, but got 0"):
        time_in_turn({}, 0)
