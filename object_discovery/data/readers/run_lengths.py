"""Object counts from column-major run-length encodings (COCO), without decoding the masks.

Pixels are ordered down the columns, `row + height * column`. Runs alternate, the first one is outside the mask.

Reference:
    pycocotools, https://github.com/cocodataset/cocoapi/blob/master/common/maskApi.c
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]


def decode_run_lengths(packed: NDArray[np.uint8], starts: Integers) -> tuple[Integers, Integers]:
    """Decode the compressed run lengths of many masks, COCO's RLE strings.

    A number is stored in groups of 5 bits, the lowest first, one character (from 48 on) each. A group's sixth bit is
    set if another group follows; the fifth bit of the last group is the sign. From the fourth run on, a number is the
    difference to the run two before.

    Args:
        packed: Concatenated strings, `(R,)`.
        starts: Offset of each of the M strings, and R, `(M + 1,)`.

    Returns:
        Run lengths `(L,)`, and the index of the mask of each run `(L,)`.

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
    position = _positions(masks)
    for differences in (position % 2 == 1, (position % 2 == 0) & (position > 0)):
        runs[differences] = _segment_cumsum(runs[differences], masks[differences])
    return runs, masks


def count_visible_masks(
    runs: Integers, masks: Integers, crowd: NDArray[Any], images: Integers, sizes: Integers, crops: Integers
) -> Integers:
    """Count the masks of each image that have a pixel in its crop that no other mask covers.

    The ends of all runs are sorted along the concatenated pixels of all images (sweep line).

    Args:
        runs: Run lengths of the M masks, `(L,)`.
        masks: Index of the mask of each run, `(L,)`, ascending.
        crowd: Nonzero for crowd masks, which cover others but are not counted, `(M,)`.
        images: Index of the image of each mask, `(M,)`.
        sizes: Heights and widths of the B images, `(B, 2)`.
        crops: Top, left, height and width of their crops, `(B, 4)`.

    Returns:
        Number of masks of each image, `(B,)`.

    Example:
        >>> first, second = [1, 2, 1], [2, 2]  # of 1 x 4 pixels: the second and third, the third and fourth
        >>> runs, masks = np.array(first + second), np.array([0, 0, 0, 1, 1])
        >>> sizes, crops = np.array([[1, 4]]), np.array([[0, 0, 1, 3]])
        >>> count_visible_masks(runs, masks, np.zeros(2), np.zeros(2, int), sizes, crops)
        array([1])
    """
    position = _positions(masks)
    is_last = np.append(masks[1:] != masks[:-1], True)
    is_border = ~(is_last & (position % 2 == 0))  # no mask begins at the end of a last run outside
    mask = masks[is_border]
    offsets = np.append(0, np.cumsum(sizes.prod(axis=1)))
    pixel = _segment_cumsum(runs, masks)[is_border] + offsets[images[mask]]
    change = np.where(position[is_border] % 2 == 0, 1, -1)
    order = np.argsort(pixel)
    pixel, change, mask = pixel[order], change[order], mask[order]
    # a crowd counts twice, so that its pixels are never covered once
    coverage = np.cumsum(change * np.where(crowd[mask] > 0, 2, 1))
    once = np.flatnonzero((coverage[:-1] == 1) & (pixel[1:] > pixel[:-1]))
    # where one mask covers the pixels, the sum of the covering masks' indices is its index
    covering = np.cumsum(change * mask)[once]
    image = images[covering]
    height, crop, offset = sizes[image, 0], crops[image], offsets[image]
    start, stop = (_count_pixels_before(pixel[index] - offset, height, crop) for index in (once, once + 1))
    is_visible = np.zeros(len(images), bool)
    is_visible[covering[stop > start]] = True
    return np.bincount(images[is_visible], minlength=len(sizes))


def _count_pixels_before(pixel: Integers, height: Integers, crop: Integers) -> Integers:
    """Count the pixels of a crop `(..., 4)` that precede a pixel, in column-major order."""
    column, row = np.divmod(pixel, height)
    top, left, rows, columns = crop.T
    whole_columns = np.clip(column - left, 0, columns) * rows
    in_columns = (left <= column) & (column < left + columns)
    count: Integers = whole_columns + np.where(in_columns, np.clip(row - top, 0, rows), 0)
    return count


def _positions(segments: Integers) -> Integers:
    """Return the position of each value within its segment; `segments` is ascending."""
    return _segment_cumsum(np.ones_like(segments), segments) - 1


def _segment_cumsum(values: Integers, segments: Integers) -> Integers:
    """Return the cumulative sums within each segment; `segments` is ascending."""
    total = np.cumsum(values)
    first = np.flatnonzero(np.diff(segments, prepend=-1))
    lengths = np.diff(np.append(first, len(values)))
    return np.asarray(total - np.repeat((total - values)[first], lengths), np.int64)
