"""Procedural solid textures of two colours, for objects and the floor."""

from __future__ import annotations

import math
from itertools import product
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from object_discovery.data.raycast.intersection import Vector
from object_discovery.data.raycast.layout import MAX_OBJECTS
from object_discovery.data.raycast.random_numbers import integers, uniform

PATTERNS = ("clouds", "stripes", "checks", "dots", "marble", "rings", "bricks")
"""Names of the patterns."""
_LATTICE = 16  # lattice points along each axis
_NUMBERS = 14  # random numbers of a texture


class Textures(NamedTuple):
    """Textures of B scenes of S = 11 surfaces, the floor first; flattened over scenes and surfaces."""

    pattern: Tensor
    """Indices into `PATTERNS`, `(B * S,)`."""
    frequency: Tensor
    """Periods per scene unit, `(B * S,)`."""
    rotation: Tensor
    """Cosine and sine of the rotation about the vertical axis, `(2, B * S)`."""
    offset: Tensor
    """Offset of the pattern in periods, `(3, B * S)`."""
    colours: Tensor
    """The two colours, linear RGB, `(2, 3, B * S)`."""
    lattice: Tensor
    """Random numbers of the value noise, `(16 * 16 * 16,)`."""


def sample_textures(indices: npt.NDArray[np.int64], seed: int, device: torch.device | str = "cpu") -> Textures:
    """Sample the textures of scenes.

    Args:
        indices: Indices of the scenes, `(B,)`.
        seed: Seed of the dataset.
        device: Device of the tensors.

    Returns:
        The textures.

    Example:
        >>> sample_textures(np.arange(2), seed=0).pattern.shape
        torch.Size([22])
    """
    surfaces = 1 + MAX_OBJECTS
    numbers = uniform(indices, surfaces * _NUMBERS, seed=seed, stream=2).reshape(len(indices), surfaces, _NUMBERS)
    frequency = np.where(np.arange(surfaces) == 0, 0.5 + numbers[..., 1], 1.5 + 2.5 * numbers[..., 1])
    angle = 2 * math.pi * numbers[..., 2]
    rotation = np.round(np.stack([np.cos(angle), np.sin(angle)]) * 2**16) / 2**16
    colours = np.moveaxis(numbers[..., 6:12].reshape(-1, 2, 3), 0, -1).copy()
    bright = 0.3 + 0.7 * numbers[..., 12].reshape(-1)
    colours = 0.05 + 0.9 * colours * colours * bright
    # floors are less saturated, and not too dark
    is_floor = np.arange(colours.shape[-1]) % surfaces == 0
    gray = (colours[:, :1] + colours[:, 1:2] + colours[:, 2:]) / 3
    colours = np.where(is_floor, 0.25 + 0.4 * colours + 0.4 * gray, colours)

    def tensor(array: npt.NDArray[np.float64]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32)).to(device)

    return Textures(
        torch.from_numpy(integers(numbers[..., 0], len(PATTERNS)).reshape(-1)).to(device),
        tensor(frequency.reshape(-1)),
        tensor(rotation.reshape(2, -1)),
        tensor(_LATTICE * np.moveaxis(numbers[..., 3:6], -1, 0).reshape(3, -1)),
        tensor(colours),
        tensor(uniform([0], _LATTICE**3, seed=0)[0]),
    )


def albedo(textures: Textures, surfaces: Tensor, point: Vector, flat: bool = False) -> Vector:
    """Compute the albedo of points of surfaces.

    Args:
        textures: The textures.
        surfaces: Indices of the P surfaces among all B * S, `(P,)`.
        point: Points on them in scene units, `(P, ...)`.
        flat: Ignore the third coordinate, which is faster.

    Returns:
        Linear RGB, shaped like the points.
    """
    broadcast = (-1, *[1] * (point[0].dim() - 1))

    def select(field: Tensor) -> Tensor:
        return field[surfaces].view(broadcast)

    frequency, (cos, sin) = select(textures.frequency), (select(part) for part in textures.rotation)
    x, y, z = (coordinate * frequency for coordinate in point)
    pattern_point = (
        cos * x + sin * y + select(textures.offset[0]),
        cos * y - sin * x + select(textures.offset[1]),
        z + select(textures.offset[2]),
    )
    mix = _patterns(textures, textures.pattern[surfaces], pattern_point, flat)
    first, second = textures.colours
    red, green, blue = (select(a) + (select(b) - select(a)) * mix for a, b in zip(first, second, strict=True))
    return red, green, blue


def value_noise(lattice: Tensor, point: Vector, flat: bool = False) -> Tensor:
    """Compute periodic value noise: smooth interpolation of random numbers on a lattice.

    Args:
        lattice: Random numbers at the lattice points, `(16 * 16 * 16,)`.
        point: Points in lattice units, any shape.
        flat: Ignore the third coordinate.

    Returns:
        Noise in [0, 1], continuously differentiable.

    Example:
        >>> zero = torch.zeros(1)
        >>> value_noise(torch.arange(4096.0) / 4096, (zero, zero + 1.0, zero))
        tensor([0.0039])
    """
    axes = 2 if flat else 3
    corners, weights = [], []
    for coordinate, stride in zip(point[:axes], (_LATTICE * _LATTICE, _LATTICE, 1), strict=False):
        cell = coordinate.floor()
        fraction = coordinate - cell
        smooth = fraction * fraction * (3 - 2 * fraction)
        low = cell.int() & (_LATTICE - 1)
        corners.append((low * stride, ((low + 1) & (_LATTICE - 1)) * stride))
        weights.append((1 - smooth, smooth))
    total: Tensor | None = None
    for corner in product((0, 1), repeat=axes):
        index, weight = corners[0][corner[0]], weights[0][corner[0]]
        for axis in range(1, axes):
            index, weight = index + corners[axis][corner[axis]], weight * weights[axis][corner[axis]]
        term = weight * lattice[index]
        total = term if total is None else total + term
    assert total is not None
    return total


def _patterns(textures: Textures, pattern: Tensor, point: Vector, flat: bool) -> Tensor:
    """Return the fraction of the second colour at points `(P, ...)`, in [0, 1]."""
    mix = torch.empty_like(point[0])
    for number, name in enumerate(PATTERNS):
        indices = (pattern == number).nonzero()[:, 0]
        if not len(indices):
            continue
        x, y, z = (coordinate[indices] for coordinate in point)
        noise = value_noise(textures.lattice, (x, y, z), flat) if name in ("clouds", "marble", "rings") else x
        mix[indices] = _pattern(name, (x, y, z), noise, textures.lattice, flat)
    return mix


def _pattern(name: str, point: Vector, noise: Tensor, lattice: Tensor, flat: bool) -> Tensor:
    """Return the fraction of the second colour of one pattern; `noise` is used by clouds, marble and rings only."""
    x, y, z = point
    if name == "clouds":
        fine = value_noise(lattice, (2 * x + 5, 2 * y + 3, 2 * z + 7), flat)
        return _step(0.65 * noise + 0.35 * fine, 0.5, 3)
    if name == "stripes":
        return _step(_wave(x + 0.5 * z), 0.5, 8)
    if name == "checks":
        a, b, c = _step(_wave(x), 0.5, 8), _step(_wave(y), 0.5, 8), _step(_wave(z), 0.5, 8)
        parity = a + b - 2 * a * b
        return parity if flat else parity + c - 2 * parity * c
    if name == "dots":
        a, b, c = _wave(x) - 0.5, _wave(y) - 0.5, _wave(z) - 0.5
        return _step(a * b if flat else a * b + c * (a + b) * 0.5, 0.06, 12)
    if name == "marble":
        return _step(_wave(0.7 * x + 0.4 * z + 1.5 * noise), 0.5, 2)
    if name == "rings":
        return _step(_wave((x * x + y * y).sqrt() * 0.8 + 0.6 * noise), 0.5, 3)
    row = (2 * y + 0.5 * z).floor()
    joint = torch.minimum(_wave(x + 0.5 * row), 2 * _wave(2 * y + 0.5 * z))
    return _step(joint, 0.18, 12)


def _wave(x: Tensor) -> Tensor:
    """Compute a triangle wave: 0 at integers, 1 halfway between."""
    return 1 - (2 * (x - x.floor()) - 1).abs()


def _step(x: Tensor, middle: float, slope: float) -> Tensor:
    """Compute a linear step from 0 to 1 around `middle`."""
    return (0.5 + slope * (x - middle)).clamp(0, 1)
