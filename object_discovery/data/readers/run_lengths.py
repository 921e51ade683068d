"""Count what is seen of many masks at once, from their run lengths alone.

Masks are run down their columns, as COCO does: pixel `row + height * column`. The first run is outside the mask.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.int64]


def decode_run_lengths(packed: NDArray[np.uint8], starts: Numbers) -> tuple[Numbers, Numbers]:
    """Unpack the run lengths of many masks from the strings of pycocotools.

    A run is in groups of 5 bits in characters from 48 on, the lowest first. A group has a sixth bit if another follows;
    the last one holds the sign in its fifth bit. From the fourth run on it is the difference to the run two before.

    Args:
        packed: The strings, one after the other, `(R,)`.
        starts: Where each of the M strings begins, and the end of the last, `(M + 1,)`.

    Returns:
        The run lengths `(L,)`, and the mask that each belongs to `(L,)`.

    Example:
        >>> runs, masks = decode_run_lengths(np.frombuffer(b"326", np.uint8), np.array([0, 2, 3]))
        >>> runs.tolist(), masks.tolist()
        ([3, 2, 6], [0, 0, 1])
    """
    groups = packed.astype(np.int64) - 48
    last = np.flatnonzero(groups & 32 == 0)
    first = np.append(0, last + 1)
    sizes = np.diff(first)
    shifts = 5 * (np.arange(len(groups)) - np.repeat(first[:-1], sizes))
    runs = np.add.reduceat((groups & 31) << shifts, first[:-1]) if len(last) else last
    runs = runs - np.where(groups[last] & 16, 1 << (5 * sizes), 0)
    ends = np.searchsorted(last, starts)
    masks = np.repeat(np.arange(len(starts) - 1), np.diff(ends))
    number = _numbers(masks)
    for chain in (number % 2 == 1, (number % 2 == 0) & (number > 0)):
        runs[chain] = _running_sums(runs[chain], masks[chain])
    return runs, masks


def count_visible_masks(
    runs: Numbers, masks: Numbers, crowd: NDArray[Any], images: Numbers, sizes: Numbers, crops: Numbers
) -> Numbers:
    """Count the masks of each image that have a pixel in its crop which no other mask has.

    Args:
        runs: Run lengths of the M masks, `(L,)`.
        masks: The mask that each belongs to, `(L,)`, rising.
        crowd: Which masks hide others but are not counted, `(M,)`.
        images: The image of each mask, `(M,)`.
        sizes: Heights and widths of the B images, `(B, 2)`.
        crops: Top, left, height and width of their crops, `(B, 4)`.

    Returns:
        The number of masks, `(B,)`.

    Example:
        >>> one, other = [1, 2, 1], [2, 2]  # of 1 x 4 pixels: the second and third, the third and fourth
        >>> runs, masks = np.array(one + other), np.array([0, 0, 0, 1, 1])
        >>> sizes, crops = np.array([[1, 4]]), np.array([[0, 0, 1, 3]])
        >>> count_visible_masks(runs, masks, np.zeros(2), np.zeros(2, int), sizes, crops)
        array([1])
    """
    number = _numbers(masks)
    final = np.append(masks[1:] != masks[:-1], True)
    kept = ~(final & (number % 2 == 0))  # the end of a last run outside begins no run inside
    owner = masks[kept]
    begins = np.append(0, np.cumsum(sizes.prod(axis=1)))
    place = _running_sums(runs, masks)[kept] + begins[images[owner]]
    change = np.where(number[kept] % 2 == 0, 1, -1)
    order = np.argsort(place)
    place, change, owner = place[order], change[order], owner[order]
    covers = np.cumsum(change * np.where(crowd[owner] > 0, 2, 1))  # a crowd alone is no single object either
    alone = np.flatnonzero((covers[:-1] == 1) & (place[1:] > place[:-1]))
    who = np.cumsum(change * owner)[alone]
    image = images[who]
    size, crop, begin = sizes[image], crops[image], begins[image]
    seen = np.zeros(len(images), bool)
    ends = (_inside(place[alone + 1] - begin, size[:, 0], crop), _inside(place[alone] - begin, size[:, 0], crop))
    seen[who[ends[0] > ends[1]]] = True
    return np.bincount(images[seen], minlength=len(sizes))


def _inside(place: Numbers, height: Numbers, crop: Numbers) -> Numbers:
    """Return how many pixels before `place` are in the crop `(..., 4)`."""
    column, row = np.divmod(place, height)
    top, left, rows, columns = crop.T
    whole = np.clip(column - left, 0, columns) * rows
    inside: Numbers = whole + np.where((left <= column) & (column < left + columns), np.clip(row - top, 0, rows), 0)
    return inside


def _numbers(segments: Numbers) -> Numbers:
    """Number the values of each segment from 0 on; `segments` is rising."""
    return _running_sums(np.ones_like(segments), segments) - 1


def _running_sums(values: Numbers, segments: Numbers) -> Numbers:
    """Add up the values of each segment; `segments` is rising."""
    total = np.cumsum(values)
    first = np.flatnonzero(np.diff(segments, prepend=-1))
    lengths = np.diff(np.append(first, len(values)))
    return np.asarray(total - np.repeat((total - values)[first], lengths), np.int64)
