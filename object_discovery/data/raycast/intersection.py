"""Intersection of rays with spheres, cubes and cylinders.

A ray is `origin + t * direction`; directions need not be unit vectors. Vectors are three tensors x, y, z that broadcast
against each other, in the object frame: the centre is the origin and the axis is z. All operations are correctly
rounded by IEEE 754, so that results do not depend on the batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

Vector: TypeAlias = tuple[Tensor, Tensor, Tensor]
"""Coordinates x, y, z."""
Interval: TypeAlias = tuple[Tensor, Tensor]
"""Ray parameters t at entry and exit; the ray misses the object where the exit is before the entry."""


def dot(a: Vector, b: Vector) -> Tensor:
    """Compute the dot product of vectors.

    Example:
        >>> a = torch.tensor(1.0), torch.tensor(2.0), torch.tensor(3.0)
        >>> dot(a, a).item()
        14.0
    """
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def sphere_interval(origin: Vector, direction: Vector, size: Tensor) -> Interval:
    """Intersect rays with spheres of radius `size`.

    Args:
        origin: Origins of the rays.
        direction: Directions of the rays.
        size: Radius.

    Returns:
        Ray parameters at entry and exit.

    Example:
        >>> zero, one = torch.zeros(()), torch.ones(())
        >>> sphere_interval((zero, zero, -3 * one), (zero, zero, one), one)
        (tensor(2.), tensor(4.))
    """
    length = dot(direction, direction)
    middle = -dot(origin, direction) / length
    x, y, z = (o + middle * d for o, d in zip(origin, direction, strict=True))
    return _interval(middle, (size * size - (x * x + y * y + z * z)) / length)


def box_interval(origin: Vector, direction: Vector, size: Tensor) -> Interval:
    """Intersect rays with axis-aligned cubes of half side `size` (slab method); see `sphere_interval`.

    Example:
        >>> zero, one = torch.zeros(()), torch.ones(())
        >>> box_interval((zero, zero, -3 * one), (zero, zero, 2 * one), one)
        (tensor(1.), tensor(2.))
    """
    enter, leave = _slab(origin[0], direction[0], size)
    for axis in (1, 2):
        enter_axis, leave_axis = _slab(origin[axis], direction[axis], size)
        enter, leave = torch.maximum(enter, enter_axis), torch.minimum(leave, leave_axis)
    return enter, leave


def cylinder_interval(origin: Vector, direction: Vector, size: Tensor) -> Interval:
    """Intersect rays with upright cylinders of radius and half height `size`; see `sphere_interval`.

    Example:
        >>> zero, one = torch.zeros(()), torch.ones(())
        >>> cylinder_interval((-3 * one, zero, zero), (one, zero, zero), one)
        (tensor(2.), tensor(4.))
    """
    (ox, oy, oz), (dx, dy, dz) = origin, direction
    length = (dx * dx + dy * dy).clamp(min=1e-20)  # 0 for rays along the axis
    middle = -(ox * dx + oy * dy) / length
    x, y = ox + middle * dx, oy + middle * dy
    side_enter, side_leave = _interval(middle, (size * size - (x * x + y * y)) / length)
    enter, leave = _slab(oz, dz, size)
    return torch.maximum(enter, side_enter), torch.minimum(leave, side_leave)


INTERVALS: tuple[Callable[[Vector, Vector, Tensor], Interval], ...] = (box_interval, sphere_interval, cylinder_interval)
"""Intersection functions in the order of `layout.SHAPES`."""


def _interval(middle: Tensor, half_squared: Tensor) -> Interval:
    """Return the interval around `middle`, given the square of its half length; empty where that is negative."""
    half = torch.where(half_squared >= 0, half_squared.clamp(min=0).sqrt(), -math.inf)
    return middle - half, middle + half


def _slab(origin: Tensor, direction: Tensor, size: Tensor) -> Interval:
    """Intersect rays with the slab between the planes at -size and size of one axis."""
    inverse = 1 / direction
    low, high = (-size - origin) * inverse, (size - origin) * inverse
    return torch.minimum(low, high), torch.maximum(low, high)
