"""How much of each light reaches a point: shadows with soft edges, of the floor and of the objects."""

from __future__ import annotations

import torch
from torch import Tensor

from object_discovery.data.raycast.intersection import INTERVALS, Vector
from object_discovery.data.raycast.primary import Geometry

_SOFTNESS = 1.2
"""Chord of an occluder over its distance to the shadow, both as seen from the light, that shuts out all the light."""
_SHARPNESS = 0.02
_AMBIENT_OCCLUSION = 0.55
_TILES = 5
_AROUND = (3**0.5, 1.0, 2**0.5)  # radius of the sphere around a cube, sphere and cylinder of size 1
_SLACK = 1e-3


def occlusion(geometry: Geometry, objects: Tensor, light: Vector, ray: Vector) -> Tensor:
    """Tell how much of lights objects keep from points.

    Args:
        geometry: The scenes.
        objects: Numbers of the P objects among all B * O.
        light: From the centres of the objects to the lights, `(P,)`.
        ray: From the lights to the points, `(P, ...)`.

    Returns:
        0 where a light is seen, 1 where it is hidden, in between at the edge of the shadow; shaped as `ray`.
    """
    shapes = geometry.shape.flatten()[objects]
    hidden = torch.zeros_like(ray[0])
    spread = (-1, *[1] * (ray[0].dim() - 1))
    for shape, interval in enumerate(INTERVALS):
        chosen = (shapes == shape).nonzero()[:, 0]
        some = objects[chosen]
        x, y, z = (part.index_select(0, chosen) for part in light)
        x, y, z = geometry.localise((x, y, z), some)
        along_x, along_y, along_z = (part.index_select(0, chosen) for part in ray)
        direction = geometry.localise((along_x, along_y, along_z), some)
        origin = x.view(spread), y.view(spread), z.view(spread)
        enter, leave = interval(origin, direction, geometry.extent.flatten()[some].view(spread))
        shade = ((leave - enter) / (_SOFTNESS * (1 - leave).clamp(min=0) + _SHARPNESS)).clamp(0, 1)
        hidden[chosen] = torch.where(enter < 1, shade, 0)
    return hidden


def _select(vectors: Tensor, numbers: Tensor) -> Tensor:
    """Return some of the vectors `(3, ...)`, by their numbers `(P,)` in the rest of the axes: `(3, P)`."""
    return vectors.flatten(1).index_select(1, numbers)


def floor_points(geometry: Geometry, u: Tensor, v: Tensor) -> Vector:
    """Return the points of the floor on rays of slopes u `(W,)` of columns and v `(H,)` of rows, `(B, H * W)`."""
    right, up, forward = geometry.axes[..., None]
    depth = (-geometry.eye[2, :, None] / (forward[2] + v * up[2]).clamp(max=-1e-6))[:, :, None]
    x, y = (
        geometry.eye[axis, :, None, None]
        + depth * ((forward[axis] + v * up[axis])[:, :, None] + (u * right[axis])[:, None])
        for axis in (0, 1)
    )
    return x.flatten(1), y.flatten(1), torch.zeros_like(x).flatten(1)


def floor_shadows(geometry: Geometry, floor: Vector, points: int) -> Tensor:
    """Tell how much of each light the objects keep from the floor.

    Args:
        geometry: B scenes.
        floor: Points of the floor `(B, points * points)`, row by row.
        points: A multiple of 5.

    Returns:
        0 to 1, `(B, 3, points * points)`.
    """
    scenes, objects = geometry.shape.shape
    side = points // _TILES
    tiled = [
        part.view(scenes, _TILES, side, _TILES, side).transpose(2, 3).reshape(scenes * _TILES * _TILES, side * side)
        for part in floor[:2]
    ]
    hidden = floor[0].new_zeros(scenes * 3 * _TILES * _TILES, side * side)
    touched = _touched(geometry, [part.view(scenes, _TILES * _TILES, side * side) for part in tiled])
    scene, light, number, tile = touched.nonzero().unbind(1)
    place = scene * _TILES * _TILES + tile
    source, centre = _select(geometry.lights, scene * 3 + light), _select(geometry.centre, scene * objects + number)
    ray = (
        tiled[0].index_select(0, place) - source[0][:, None],
        tiled[1].index_select(0, place) - source[1][:, None],
        (-source[2][:, None]).expand(-1, side * side),
    )
    offset = source[0] - centre[0], source[1] - centre[1], source[2] - centre[2]
    shade = occlusion(geometry, scene * objects + number, offset, ray)
    target = (scene * 3 + light) * _TILES * _TILES + tile
    hidden.scatter_reduce_(0, target[:, None].expand_as(shade), shade, "amax")
    return hidden.view(scenes, 3, _TILES, _TILES, side, side).transpose(3, 4).reshape(scenes, 3, points * points)


def _touched(geometry: Geometry, tiled: list[Tensor]) -> Tensor:
    """Compute which tiles of the floor `(B, T, N)` a shadow may touch, `(B, 3, O, T)`.

    A shadow lies in the box around the shadows of the eight corners of the upright box around an object.
    """
    lights, centre = geometry.lights[..., None], geometry.centre[:, :, None]
    cos, sin = geometry.turn.abs()
    reach = torch.where(geometry.shape == 0, (cos + sin) * geometry.extent, geometry.extent)[:, None]
    touched = (geometry.shape >= 0)[:, None, :, None]
    for axis in (0, 1):
        ends = []
        for top in (geometry.extent[:, None], -geometry.extent[:, None]):
            fall = lights[2] / (lights[2] - centre[2] - top).clamp(min=0.1)
            ends += [lights[axis] + (centre[axis] + sign * reach - lights[axis]) * fall for sign in (-1, 1)]
        low, high = torch.stack(ends).amin(0)[..., None], torch.stack(ends).amax(0)[..., None]
        least, most = tiled[axis].amin(-1)[:, None, None], tiled[axis].amax(-1)[:, None, None]
        touched = touched & (low <= most) & (least <= high)
    return touched


def ambient_occlusion(geometry: Geometry, floor: Vector) -> Tensor:
    """Compute the ambient occlusion of the floor by the objects.

    Args:
        geometry: B scenes.
        floor: Points of the floor `(B, N)`.

    Returns:
        0 to 1, `(B, N)`.
    """
    hidden = torch.zeros_like(floor[0])
    for number in range(geometry.shape.shape[1]):
        x, y = (floor[axis] - geometry.centre[axis, :, number, None] for axis in (0, 1))
        square = (geometry.extent[:, number] * geometry.extent[:, number])[:, None]
        near = square / (x * x + y * y + square)  # that a sphere hides is the cube of the sine of its angle
        hidden += torch.where(geometry.shape[:, number, None] >= 0, near * near.sqrt(), 0)
    return (1 - _AMBIENT_OCCLUSION * hidden).clamp(min=0.2)


def object_shadows(geometry: Geometry, objects: Tensor, points: Vector) -> Tensor:
    """Tell how much of each light other objects keep from points on objects.

    Args:
        geometry: B scenes of O objects.
        objects: Numbers of the objects among all B * O, `(M,)`.
        points: Points on them `(M,)`.

    Returns:
        0 to 1, `(M, 3)`.
    """
    count = geometry.shape.shape[1]
    hidden = points[0].new_zeros(len(objects) * 3)
    point, light, number = _shading(geometry).flatten(0, 1).index_select(0, objects).nonzero().unbind(1)
    scene = objects[point] // count
    source, centre = _select(geometry.lights, scene * 3 + light), _select(geometry.centre, scene * count + number)
    x, y, z = (part.index_select(0, point) - lamp for part, lamp in zip(points, source, strict=True))
    offset = source[0] - centre[0], source[1] - centre[1], source[2] - centre[2]
    shade = occlusion(geometry, scene * count + number, offset, (x, y, z))
    return hidden.scatter_reduce_(0, point * 3 + light, shade, "amax").view(len(objects), 3)


def _shading(geometry: Geometry) -> Tensor:
    """Compute which objects may take a light from which others, `(B, O, 3, O)`: the shaded one, the light, the shading.

    The cone from the light around the sphere around the one must meet the sphere around the other.
    """
    centre, lights, there = geometry.centre, geometry.lights, geometry.shape >= 0
    radius = geometry.extent * torch.tensor(_AROUND, device=there.device)[geometry.shape.clamp(min=0)]
    offset = lights[:, :, :, None] - centre[:, :, None, :]  # coordinate, scene, light, object
    near, far = offset[:, :, None], offset.transpose(2, 3)[..., None]
    near_square = near[0] * near[0] + near[1] * near[1] + near[2] * near[2]
    far_square = far[0] * far[0] + far[1] * far[1] + far[2] * far[2]
    product = near[0] * far[0] + near[1] * far[1] + near[2] * far[2]
    along = product / far_square  # where the ray to the shaded one's centre passes the other
    aside = (near_square - along * product).clamp(min=0).sqrt()
    meets = (along > 0) & (aside <= radius[:, None, None, :] + along * radius[:, :, None, None] + _SLACK)
    different = ~torch.eye(there.shape[1], dtype=torch.bool, device=there.device)[:, None]
    return meets & (near_square <= far_square) & different & there[:, :, None, None] & there[:, None, None, :]
