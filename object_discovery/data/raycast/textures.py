"""Procedural materials: patterns of two colours in space, for objects and the floor."""

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
"""The patterns."""
_LATTICE = 16
_DRAWS = 14


class Textures(NamedTuple):
    """Materials of B scenes of S = 11 surfaces, the floor first; flattened over scenes and surfaces."""

    pattern: Tensor
    """Indices into `PATTERNS`, `(B * S,)`."""
    frequency: Tensor
    """Repetitions in a scene unit, `(B * S,)`."""
    turn: Tensor
    """Cosine and sine of the direction of the pattern, `(2, B * S)`."""
    offset: Tensor
    """Where the pattern starts, `(3, B * S)`."""
    colours: Tensor
    """Its two colours, linear RGB, `(2, 3, B * S)`."""
    lattice: Tensor
    """Random numbers that clouds are made of, `(16, 16, 16)` flat."""


def sample_textures(indices: npt.NDArray[np.int64], seed: int, device: torch.device | str = "cpu") -> Textures:
    """Sample the materials of scenes.

    Args:
        indices: Numbers of the scenes, `(B,)`.
        seed: Seed of the dataset.
        device: Where to render them.

    Returns:
        The materials.

    Example:
        >>> sample_textures(np.arange(2), seed=0).pattern.shape
        torch.Size([22])
    """
    surfaces = 1 + MAX_OBJECTS
    draws = uniform(indices, surfaces * _DRAWS, seed=seed, stream=2).reshape(len(indices), surfaces, _DRAWS)
    frequency = np.where(np.arange(surfaces) == 0, 0.5 + draws[..., 1], 1.5 + 2.5 * draws[..., 1])
    angle = 2 * math.pi * draws[..., 2]
    turn = np.round(np.stack([np.cos(angle), np.sin(angle)]) * 2**16) / 2**16
    colours = np.moveaxis(draws[..., 6:12].reshape(-1, 2, 3), 0, -1).copy()
    bright = 0.3 + 0.7 * draws[..., 12].reshape(-1)
    colours = 0.05 + 0.9 * colours * colours * bright
    # the floor is duller, as floors are, and never as dark as a hole
    floor = np.arange(colours.shape[-1]) % surfaces == 0
    gray = (colours[:, :1] + colours[:, 1:2] + colours[:, 2:]) / 3
    colours = np.where(floor, 0.25 + 0.4 * colours + 0.4 * gray, colours)

    def tensor(array: npt.NDArray[np.float64]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32)).to(device)

    return Textures(
        torch.from_numpy(integers(draws[..., 0], len(PATTERNS)).reshape(-1)).to(device),
        tensor(frequency.reshape(-1)),
        tensor(turn.reshape(2, -1)),
        tensor(_LATTICE * np.moveaxis(draws[..., 3:6], -1, 0).reshape(3, -1)),
        tensor(colours),
        tensor(uniform([0], _LATTICE**3, seed=0)[0]),
    )


def albedo(textures: Textures, surfaces: Tensor, point: Vector, flat: bool = False) -> Vector:
    """Colour points of surfaces.

    Args:
        textures: The materials.
        surfaces: Numbers of the P surfaces among all B * S, `(P,)`.
        point: Places on them, `(P, ...)`, in scene units.
        flat: Whether the third coordinate is constant, which saves time.

    Returns:
        Linear RGB, shaped as the points.
    """
    spread = (-1, *[1] * (point[0].dim() - 1))

    def of(field: Tensor) -> Tensor:
        return field[surfaces].view(spread)

    frequency, (cos, sin) = of(textures.frequency), (of(part) for part in textures.turn)
    x, y, z = (coordinate * frequency for coordinate in point)
    place = (
        cos * x + sin * y + of(textures.offset[0]),
        cos * y - sin * x + of(textures.offset[1]),
        z + of(textures.offset[2]),
    )
    mix = _patterns(textures, textures.pattern[surfaces], place, flat)
    first, second = textures.colours
    red, green, blue = (of(a) + (of(b) - of(a)) * mix for a, b in zip(first, second, strict=True))
    return red, green, blue


def noise(lattice: Tensor, point: Vector, flat: bool = False) -> Tensor:
    """Blend random numbers at the corners of the unit cells around points.

    Args:
        lattice: Random numbers, `(16 * 16 * 16,)`.
        point: Points, any shape.
        flat: Whether to leave out the third coordinate.

    Returns:
        Noise in [0, 1], without steps.

    Example:
        >>> zero = torch.zeros(1)
        >>> noise(torch.arange(4096.0) / 4096, (zero, zero + 1.0, zero))
        tensor([0.0039])
    """
    axes = 2 if flat else 3
    corners, weights = [], []
    for coordinate, stride in zip(point[:axes], (_LATTICE * _LATTICE, _LATTICE, 1), strict=False):
        cell = coordinate.floor()
        part = coordinate - cell
        smooth = part * part * (3 - 2 * part)
        low = cell.int() & (_LATTICE - 1)
        corners.append((low * stride, ((low + 1) & (_LATTICE - 1)) * stride))
        weights.append((1 - smooth, smooth))
    total: Tensor | None = None
    for ends in product((0, 1), repeat=axes):
        index, weight = corners[0][ends[0]], weights[0][ends[0]]
        for axis in range(1, axes):
            index, weight = index + corners[axis][ends[axis]], weight * weights[axis][ends[axis]]
        part = weight * lattice[index]
        total = part if total is None else total + part
    assert total is not None
    return total


def _patterns(textures: Textures, pattern: Tensor, place: Vector, flat: bool) -> Tensor:
    """Return how much of the second colour there is at places `(P, ...)`, 0 to 1."""
    mix = torch.empty_like(place[0])
    for number, name in enumerate(PATTERNS):
        chosen = (pattern == number).nonzero()[:, 0]
        if not len(chosen):
            continue
        x, y, z = (coordinate[chosen] for coordinate in place)
        cloud = noise(textures.lattice, (x, y, z), flat) if name in ("clouds", "marble", "rings") else x
        mix[chosen] = _pattern(name, (x, y, z), cloud, textures.lattice, flat)
    return mix


def _pattern(name: str, place: Vector, cloud: Tensor, lattice: Tensor, flat: bool) -> Tensor:
    x, y, z = place
    if name == "clouds":
        fine = noise(lattice, (2 * x + 5, 2 * y + 3, 2 * z + 7), flat)
        return _step(0.65 * cloud + 0.35 * fine, 0.5, 3)
    if name == "stripes":
        return _step(_wave(x + 0.5 * z), 0.5, 8)
    if name == "checks":
        even = _step(_wave(x), 0.5, 8), _step(_wave(y), 0.5, 8), _step(_wave(z), 0.5, 8)
        both = even[0] + even[1] - 2 * even[0] * even[1]
        return both if flat else both + even[2] - 2 * both * even[2]
    if name == "dots":
        a, b, c = _wave(x) - 0.5, _wave(y) - 0.5, _wave(z) - 0.5
        return _step(a * b if flat else a * b + c * (a + b) * 0.5, 0.06, 12)
    if name == "marble":
        return _step(_wave(0.7 * x + 0.4 * z + 1.5 * cloud), 0.5, 2)
    if name == "rings":
        return _step(_wave((x * x + y * y).sqrt() * 0.8 + 0.6 * cloud), 0.5, 3)
    row = (2 * y + 0.5 * z).floor()
    joint = torch.minimum(_wave(x + 0.5 * row), 2 * _wave(2 * y + 0.5 * z))
    return _step(joint, 0.18, 12)


def _wave(x: Tensor) -> Tensor:
    """Return a triangle wave: 0 at whole numbers, 1 halfway between."""
    return 1 - (2 * (x - x.floor()) - 1).abs()


def _step(x: Tensor, middle: float, slope: float) -> Tensor:
    """Rise from 0 to 1 around `middle`."""
    return (0.5 + slope * (x - middle)).clamp(0, 1)
