from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator

import pytest

from object_discovery.data.conversion.parallel import ordered_map, resolve_workers


def test_workers_default_to_the_cores_and_must_not_be_negative(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert [resolve_workers(workers) for workers in (None, 0, 3)] == [6, 0, 3]
    assert resolve_workers(None, default=2) == 2
    with pytest.raises(ValueError, match="Expected argument `workers` to be at least 0, but got -1"):
        resolve_workers(-1)


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_results_are_in_the_order_of_the_items(workers: int) -> None:
    def square(number: int) -> int:
        time.sleep(0.001 * (number % 3))
        return number**2

    assert list(ordered_map(square, range(20), workers)) == [number**2 for number in range(20)]


def test_without_workers_the_calling_thread_is_used() -> None:
    main, other = (set(ordered_map(lambda _: threading.get_ident(), range(5), workers)) for workers in (0, 2))
    assert main == {threading.get_ident()}
    assert threading.get_ident() not in other


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_items_are_consumed_as_needed(workers: int) -> None:
    consumed: list[int] = []

    def items() -> Iterator[int]:
        for number in range(100):
            consumed.append(number)
            yield number

    results = ordered_map(abs, items(), workers)
    assert next(results) == 0
    assert len(consumed) <= 2 * workers + 1


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("failing", ["function", "items"])
def test_results_before_an_error_are_yielded(workers: int, failing: str) -> None:
    def items() -> Iterator[int]:
        yield from range(5)
        if failing == "items":
            raise ValueError("item 5")
        yield from range(5, 20)

    def check(number: int) -> int:
        if number == 5:
            raise ValueError("item 5")
        return number

    stop = threading.Event()
    results = ordered_map(check, items(), workers, stop)
    assert [next(results) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="item 5"):
        next(results)
    assert stop.is_set() == (workers > 0)


def test_running_calls_can_stop_after_an_error() -> None:
    stop, was_set = threading.Event(), []

    def wait_or_fail(number: int) -> None:
        if number == 0:
            raise ValueError("first")
        was_set.append(stop.wait(20))

    with pytest.raises(ValueError, match="first"):
        list(ordered_map(wait_or_fail, range(2), workers=2, stop=stop))
    assert all(was_set)
