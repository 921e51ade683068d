"""Shading: three lights and ambient light, diffuse reflection, specular highlights and metallic reflection."""

from __future__ import annotations

import torch
from torch import Tensor

from object_discovery.data.raycast.intersection import Vector, dot
from object_discovery.data.raycast.primary import Geometry

FLOOR = (0.686, 0.674, 0.659)
"""Albedo of the plain floor, linear RGB."""
# strengths of key, fill, back and ambient light, fitted to the floor of the published images
_LIGHTS = (6.9, 1.86, 3.83)
_AMBIENT = 0.2
_FROM_BELOW = 0.35  # share of the ambient light from below
_BEVEL = 0.08  # scene units; about 1.5 of 128 pixels for distant objects
_RUBBER_SPECULAR, _METAL_SPECULAR = 0.02, 1.2


def normalise(vector: Vector) -> Vector:
    """Normalise vectors to unit length.

    Example:
        >>> x, y, z = normalise((torch.tensor(3.0), torch.tensor(0.0), torch.tensor(4.0)))
        >>> round(x.item(), 3), y.item(), round(z.item(), 3)
        (0.6, 0.0, 0.8)
    """
    inverse = 1 / dot(vector, vector).clamp(min=1e-20).sqrt()
    return vector[0] * inverse, vector[1] * inverse, vector[2] * inverse


def normals(shape: Tensor, extent: Tensor, point: Vector) -> Vector:
    """Compute surface normals; at the edges of cubes and cylinders they are those of a bevel.

    Args:
        shape: Indices into `SHAPES`, `(M,)`.
        extent: Radius or half side, `(M,)`.
        point: Points on the surfaces in the object frames, `(M,)`.

    Returns:
        Unit normals in the object frames, `(M,)`.
    """
    x, y, z = (coordinate / extent for coordinate in point)
    radius = (x * x + y * y).sqrt().clamp(min=1e-6)
    flat = 1 - _BEVEL / extent
    rim = (radius - flat).clamp(min=0) / radius
    box, sphere = shape == 0, shape == 1
    x, y = (torch.where(sphere, axis, torch.where(box, _excess(axis, flat), axis * rim)) for axis in (x, y))
    return normalise((x, y, torch.where(sphere, z, _excess(z, flat))))


def _excess(x: Tensor, flat: Tensor) -> Tensor:
    """Return the signed distance of x from [-flat, flat], 0 inside."""
    return x - torch.minimum(torch.maximum(x, -flat), flat)


def incident_light(point: Vector, normal: Vector | None, light: Vector) -> tuple[Tensor, Vector]:
    """Compute the irradiance of points from an area light of strength 1 that faces the origin.

    Args:
        point: Points in the scene.
        normal: Unit normals. None: the floor's.
        light: Position of the light.

    Returns:
        Irradiance, and unit vectors to the light.
    """
    ray = light[0] - point[0], light[1] - point[1], light[2] - point[2]
    square = dot(ray, ray)
    inverse = 1 / square.sqrt()
    towards = ray[0] * inverse, ray[1] * inverse, ray[2] * inverse
    cosine = towards[2] if normal is None else dot(normal, towards).clamp(min=0)
    emitted = (dot(light, towards) / dot(light, light).sqrt()).clamp(min=0)
    return cosine * emitted / square, towards


def floor_brightness(geometry: Geometry, floor: Vector, shadows: Tensor, ambient: Tensor) -> Tensor:
    """Compute the light that the floor reflects, for an albedo of 1.

    Args:
        geometry: B scenes.
        floor: Points of the floor, `(B, N)`.
        shadows: Occluded fraction of each light, `(B, 3, N)`.
        ambient: Visible fraction of the ambient light, `(B, N)`.

    Returns:
        Linear brightness, `(B, N)`.
    """
    total = _AMBIENT * ambient
    for number, strength in enumerate(_LIGHTS):
        x, y, z = geometry.lights[:, :, number, None]
        irradiance, _ = incident_light(floor, None, (x, y, z))
        total = total + strength * irradiance * (1 - shadows[:, number])
    return total


class Surface:
    """Visible points on objects.

    Args:
        point: Points in the scene, `(M,)`.
        normal: Unit normals, `(M,)`.
        view: Unit vectors to the camera, `(M,)`.
        metal: Whether the object is of metal, `(M,)`.
    """

    def __init__(self, point: Vector, normal: Vector, view: Vector, metal: Tensor) -> None:
        self.point, self.normal, self.view, self.metal = point, normal, view, metal

    def shade(self, lights: Tensor, shadows: Tensor, albedo: Vector) -> Vector:
        """Compute the reflected light.

        Args:
            lights: Positions of the lights, `(3, 3, M)`: coordinate, light, point.
            shadows: Occluded fraction of each light, `(M, 3)`.
            albedo: Linear RGB, `(M,)`.

        Returns:
            Linear RGB, `(M,)`.
        """
        up = 0.5 + 0.5 * self.normal[2]
        diffuse = _AMBIENT * (_FROM_BELOW + (1 - _FROM_BELOW) * up)
        specular = torch.zeros_like(diffuse)
        for number, strength in enumerate(_LIGHTS):
            x, y, z = lights[:, number]
            irradiance, towards = incident_light(self.point, self.normal, (x, y, z))
            light = strength * irradiance * (1 - shadows[:, number])
            diffuse = diffuse + light
            specular = specular + light * self._highlight(towards)
        reflection = self._reflection()
        body = torch.where(self.metal, 0.12 * diffuse + reflection, diffuse)
        white = torch.where(self.metal, 0, _RUBBER_SPECULAR * specular)
        coloured = torch.where(self.metal, body + _METAL_SPECULAR * specular, body)
        red, green, blue = (channel * coloured + white for channel in albedo)
        return red, green, blue

    def _highlight(self, towards: Vector) -> Tensor:
        """Compute the Blinn-Phong highlight, with exponent 16 for rubber and 64 for metal."""
        half = normalise((towards[0] + self.view[0], towards[1] + self.view[1], towards[2] + self.view[2]))
        power = dot(self.normal, half).clamp(min=0)
        for _ in range(4):
            power = power * power
        sharp = power * power
        sharp = sharp * sharp
        return torch.where(self.metal, 5 * sharp, power)

    def _reflection(self) -> Tensor:
        """Compute the mirror reflection of metal: the floor, brighter in the centre, below; a dark room above."""
        twice_cosine = 2 * dot(self.normal, self.view)
        x, y, z = (twice_cosine * n - v for n, v in zip(self.normal, self.view, strict=True))
        distance = self.point[2] / (-z).clamp(min=1e-3)
        floor_x, floor_y = self.point[0] + distance * x, self.point[1] + distance * y
        square = floor_x * floor_x + floor_y * floor_y
        floor = (0.07 + 2.8 / (14 + square)) * distance / (distance + 0.2)
        room = 0.04 + 0.08 * (1 - z)
        return torch.where(z < 0, floor, room)
