"""Ordered parallel map over threads, for conversions."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def resolve_workers(workers: int | None, default: int | None = None) -> int:
    """Return a number of threads.

    Args:
        workers: Requested number of threads; 0: none, everything runs in the calling thread. None: `default`.
        default: Default number. None: one thread per core.

    Returns:
        The number of threads, at least 0.

    Raises:
        ValueError: If `workers` is negative.

    Example:
        >>> resolve_workers(0), resolve_workers(None, default=4)
        (0, 4)
    """
    if workers is None:
        return default or os.cpu_count() or 1
    if workers < 0:
        raise ValueError(f"Expected argument `workers` to be at least 0, but got {workers}")
    return workers


def ordered_map(
    function: Callable[[_Item], _Result], items: Iterable[_Item], workers: int, stop: threading.Event | None = None
) -> Iterator[_Result]:
    """Call a function for each item in threads, and yield the results in the order of the items.

    Items are consumed as needed, a few ahead of the results. After an exception, of the function or of the iteration
    over items, the results before it are yielded, then it is raised, and pending calls are cancelled.

    Args:
        function: The function; thread-safe.
        items: Its arguments.
        workers: Number of threads. 0: call the function in the calling thread.
        stop: Set at the end or after an exception, so that running calls can return early.

    Yields:
        Results in the order of the items.

    Example:
        >>> list(ordered_map(str.upper, "abc", workers=2))
        ['A', 'B', 'C']
    """
    if workers == 0:
        yield from map(function, items)
        return
    iterator, error = iter(items), None
    pending: deque[Future[_Result]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            while True:
                try:
                    pending.append(pool.submit(function, next(iterator)))
                except StopIteration:
                    break
                except Exception as exception:
                    error = exception
                    break
                if len(pending) > 2 * workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
            if error is not None:
                raise error
        finally:
            if stop is not None:
                stop.set()
            for future in pending:
                future.cancel()
