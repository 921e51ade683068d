"""What colour a point has: light from three lamps and from all sides, highlights, and reflections of metal."""

from __future__ import annotations

import torch
from torch import Tensor

from object_discovery.data.raycast.intersection import Vector, dot
from object_discovery.data.raycast.primary import Geometry

FLOOR = (0.686, 0.674, 0.659)
"""Colour of the plain floor, linear RGB."""
# fitted to the floor of the published pictures: of key, fill and back light, and of the light from all sides
_LAMPS = (6.9, 1.86, 3.83)
_AMBIENT = 0.2
_FROM_BELOW = 0.35
_BEVEL = 0.08  # scene units; about a pixel and a half of 128 in the distance
_RUBBER_GLOSS, _METAL_GLOSS = 0.02, 1.2


def normalise(vector: Vector) -> Vector:
    """Scale vectors to length 1.

    Example:
        >>> x, y, z = normalise((torch.tensor(3.0), torch.tensor(0.0), torch.tensor(4.0)))
        >>> round(x.item(), 3), y.item(), round(z.item(), 3)
        (0.6, 0.0, 0.8)
    """
    inverse = 1 / dot(vector, vector).clamp(min=1e-20).sqrt()
    return vector[0] * inverse, vector[1] * inverse, vector[2] * inverse


def normals(shape: Tensor, extent: Tensor, point: Vector) -> Vector:
    """Return the normals of surfaces; those of cubes and cylinders turn at the edges as if these were rounded.

    Args:
        shape: Indices into `SHAPES`, `(M,)`.
        extent: Radius or half the side, `(M,)`.
        point: Points on the surfaces, relative to the centres and turned as the objects are, `(M,)`.

    Returns:
        Unit vectors, turned as the objects are.
    """
    x, y, z = (coordinate / extent for coordinate in point)
    radius = (x * x + y * y).sqrt().clamp(min=1e-6)
    flat = 1 - _BEVEL / extent
    rim = (radius - flat).clamp(min=0) / radius
    box, sphere = shape == 0, shape == 1
    x, y = (torch.where(sphere, axis, torch.where(box, _beyond(axis, flat), axis * rim)) for axis in (x, y))
    return normalise((x, y, torch.where(sphere, z, _beyond(z, flat))))


def _beyond(x: Tensor, flat: Tensor) -> Tensor:
    """Return how far x lies outside [-flat, flat]."""
    return x - torch.minimum(torch.maximum(x, -flat), flat)


def incident_light(point: Vector, normal: Vector | None, lamp: Vector) -> tuple[Tensor, Vector]:
    """Return how much light of a lamp of strength 1, which is turned to the origin, falls on points, and from where.

    `normal` None is the floor's.
    """
    ray = lamp[0] - point[0], lamp[1] - point[1], lamp[2] - point[2]
    square = dot(ray, ray)
    inverse = 1 / square.sqrt()
    towards = ray[0] * inverse, ray[1] * inverse, ray[2] * inverse
    facing = towards[2] if normal is None else dot(normal, towards).clamp(min=0)
    beam = (dot(lamp, towards) / dot(lamp, lamp).sqrt()).clamp(min=0)
    return facing * beam / square, towards


def floor_brightness(geometry: Geometry, floor: Vector, shadows: Tensor, ambient: Tensor) -> Tensor:
    """Return what the floor would reflect if it were white.

    Args:
        geometry: B scenes.
        floor: Points of the floor, `(B, N)`.
        shadows: How much of each lamp is hidden, `(B, 3, N)`.
        ambient: How much of the light from all sides reaches the floor, `(B, N)`.

    Returns:
        Linear brightness, `(B, N)`.
    """
    total = _AMBIENT * ambient
    for number, strength in enumerate(_LAMPS):
        x, y, z = geometry.lights[:, :, number, None]
        light, _ = incident_light(floor, None, (x, y, z))
        total = total + strength * light * (1 - shadows[:, number])
    return total


class Surface:
    """Points on objects, seen by the camera.

    Args:
        point: Points in the scene, `(M,)`.
        normal: Normals, `(M,)`.
        view: Directions to the camera, unit vectors, `(M,)`.
        metal: Which points are of metal, `(M,)`.
    """

    def __init__(self, point: Vector, normal: Vector, view: Vector, metal: Tensor) -> None:
        self.point, self.normal, self.view, self.metal = point, normal, view, metal

    def shade(self, lamps: Tensor, shadows: Tensor, colour: Vector) -> Vector:
        """Return linear RGB, given lamps `(3, 3, M)` (coordinate, lamp), shadows `(M, 3)` and colours."""
        up = 0.5 + 0.5 * self.normal[2]
        diffuse = _AMBIENT * (_FROM_BELOW + (1 - _FROM_BELOW) * up)
        gloss = torch.zeros_like(diffuse)
        for number, strength in enumerate(_LAMPS):
            x, y, z = lamps[:, number]
            light, towards = incident_light(self.point, self.normal, (x, y, z))
            seen = strength * light * (1 - shadows[:, number])
            diffuse = diffuse + seen
            gloss = gloss + seen * self._highlight(towards)
        mirror = self._reflection()
        body = torch.where(self.metal, 0.12 * diffuse + mirror, diffuse)
        white = torch.where(self.metal, 0, _RUBBER_GLOSS * gloss)
        tint = torch.where(self.metal, body + _METAL_GLOSS * gloss, body)
        red, green, blue = (part * tint + white for part in colour)
        return red, green, blue

    def _highlight(self, towards: Vector) -> Tensor:
        """Return Blinn and Phong's highlight, of exponent 16 for rubber and 64 for metal."""
        half = normalise((towards[0] + self.view[0], towards[1] + self.view[1], towards[2] + self.view[2]))
        power = dot(self.normal, half).clamp(min=0)
        for _ in range(4):
            power = power * power
        sharp = power * power
        sharp = sharp * sharp
        return torch.where(self.metal, 5 * sharp, power)

    def _reflection(self) -> Tensor:
        """Return what metal mirrors: the floor, which is bright in the middle, below; a dark room above."""
        along = 2 * dot(self.normal, self.view)
        x, y, z = (along * n - v for n, v in zip(self.normal, self.view, strict=True))
        distance = self.point[2] / (-z).clamp(min=1e-3)
        floor_x, floor_y = self.point[0] + distance * x, self.point[1] + distance * y
        square = floor_x * floor_x + floor_y * floor_y
        floor = (0.07 + 2.8 / (14 + square)) * distance / (distance + 0.2)
        room = 0.04 + 0.08 * (1 - z)
        return torch.where(z < 0, floor, room)
