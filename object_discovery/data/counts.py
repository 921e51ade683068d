"""Counts of objects that are worked out once and kept on the disk."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from object_discovery.data.cached_file import cached_file


def cached_counts(
    path: str | os.PathLike[str], key: str, compute: Callable[[], NDArray[np.int64]]
) -> NDArray[np.int64]:
    """Count something about the scenes of a file, once.

    Args:
        path: The file or folder that is counted; when its size or time changes, it is counted again.
        key: What else the counts depend on, such as the crop.
        compute: Counts, `(N,)`.

    Returns:
        The counts, from the disk or from `compute`; see `cached_file` for where they are kept.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "scenes.h5")
        ...     _ = path.write_bytes(b"...")
        ...     first = cached_counts(path, "objects", lambda: np.array([3, 4]))
        ...     cached_counts(path, "objects", lambda: np.array([0, 0])).tolist()
        [3, 4]
    """
    computed: list[NDArray[np.int64]] = []

    def write(place: Path) -> None:
        if not computed:
            computed.append(np.asarray(compute(), np.int64))
        with open(place, "wb") as file:
            np.save(file, computed[0])

    place = cached_file(path, key, "counts.npy", write, lambda place: _load(place) is not None)
    stored = _load(place) if place and not computed else None
    if stored is not None:
        return stored
    return computed[0] if computed else np.asarray(compute(), np.int64)


def _load(place: Path) -> NDArray[np.int64] | None:
    with suppress(OSError, ValueError, EOFError):
        counts: NDArray[Any] = np.load(place, allow_pickle=False)
        if counts.ndim == 1 and counts.dtype == np.int64:
            return counts
    return None
