import time

import pytest

from object_discovery.benchmarks.timing import Timing, time_alternating


def test_workloads_alternate_and_times_are_per_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    now = 0.0

    def work(name: str, seconds: float, units: int) -> int:
        nonlocal now
        order.append(name)
        now += seconds
        return units

    monkeypatch.setattr(time, "perf_counter", lambda: now)
    timings = time_alternating({"first": lambda: work("first", 2.0, 1), "second": lambda: work("second", 2.0, 4)}, 3)
    assert order == ["first", "second"] * 3
    assert timings["first"].seconds == pytest.approx([2.0] * 3)
    assert timings["second"].seconds == pytest.approx([0.5] * 3)


def test_ratio_is_the_median_of_paired_ratios() -> None:
    first, second = Timing([3.0, 30.0, 8.0]), Timing([1.0, 10.0, 4.0])
    assert first.over(second) == 3.0
    assert (first.median, second.median) == (8.0, 4.0)


def test_zero_repeats_are_refused() -> None:
    with pytest.raises(ValueError, match="Expected argument `repeats` to be at least 1, but got 0"):
        time_alternating({}, 0)
