"""Soft shadows and ambient occlusion of the floor and of objects."""

from __future__ import annotations

import torch
from torch import Tensor

from object_discovery.data.raycast.intersection import INTERVALS, Vector
from object_discovery.data.raycast.primary import Geometry

_SOFTNESS = 1.2
"""Ratio of the chord through an occluder to its distance from the shadow at which the shadow is complete."""
_SHARPNESS = 0.02
_AMBIENT_OCCLUSION = 0.55
_TILES = 5  # tiles along each side of the floor grid
_BOUNDING_RADII = (3**0.5, 1.0, 2**0.5)  # of the spheres around a cube, sphere and cylinder of size 1
_TOLERANCE = 1e-3


def occlusion(geometry: Geometry, objects: Tensor, light: Vector, ray: Vector) -> Tensor:
    """Compute the fraction of a light that an object occludes, for pairs of object and light.

    Args:
        geometry: B scenes of O objects.
        objects: Indices of the P objects among all B * O, `(P,)`.
        light: Vectors from the centres of the objects to the lights, `(P,)`.
        ray: Vectors from the lights to the shaded points, `(P, ...)`.

    Returns:
        Occluded fraction, shaped like `ray`: 0 lit, 1 in full shadow, in between in the penumbra.
    """
    shapes = geometry.shape.flatten()[objects]
    occluded = torch.zeros_like(ray[0])
    broadcast = (-1, *[1] * (ray[0].dim() - 1))
    for shape, interval in enumerate(INTERVALS):
        pairs = (shapes == shape).nonzero()[:, 0]
        occluders = objects[pairs]
        x, y, z = (coordinate.index_select(0, pairs) for coordinate in light)
        x, y, z = geometry.to_object_frame((x, y, z), occluders)
        ray_x, ray_y, ray_z = (coordinate.index_select(0, pairs) for coordinate in ray)
        direction = geometry.to_object_frame((ray_x, ray_y, ray_z), occluders)
        origin = x.view(broadcast), y.view(broadcast), z.view(broadcast)
        enter, leave = interval(origin, direction, geometry.extent.flatten()[occluders].view(broadcast))
        fraction = ((leave - enter) / (_SOFTNESS * (1 - leave).clamp(min=0) + _SHARPNESS)).clamp(0, 1)
        occluded[pairs] = torch.where(enter < 1, fraction, 0)
    return occluded


def _select(vectors: Tensor, indices: Tensor) -> Tensor:
    """Select vectors `(3, ...)` by indices `(P,)` into the flattened other axes: `(3, P)`."""
    return vectors.flatten(1).index_select(1, indices)


def floor_points(geometry: Geometry, u: Tensor, v: Tensor) -> Vector:
    """Intersect rays with the floor.

    Args:
        geometry: B scenes.
        u: Slopes of the columns, `(W,)`, see `ray_slopes`.
        v: Slopes of the rows, `(H,)`.

    Returns:
        Points of the floor, `(B, H * W)`.
    """
    right, up, forward = geometry.axes[..., None]
    depth = (-geometry.eye[2, :, None] / (forward[2] + v * up[2]).clamp(max=-1e-6))[:, :, None]
    x, y = (
        geometry.eye[axis, :, None, None]
        + depth * ((forward[axis] + v * up[axis])[:, :, None] + (u * right[axis])[:, None])
        for axis in (0, 1)
    )
    return x.flatten(1), y.flatten(1), torch.zeros_like(x).flatten(1)


def floor_shadows(geometry: Geometry, floor: Vector, points: int) -> Tensor:
    """Compute the fraction of each light that the objects occlude from a grid of floor points.

    The grid is divided into 5 x 5 tiles; an object's shadow is computed only in tiles that its bounding box overlaps.

    Args:
        geometry: B scenes.
        floor: Points of the floor `(B, points * points)`, row by row.
        points: Height and width of the grid, a multiple of 5.

    Returns:
        Occluded fraction in [0, 1], `(B, 3, points * points)`; where shadows overlap, the maximum.
    """
    scenes, objects = geometry.shape.shape
    side = points // _TILES
    tiled = [
        part.view(scenes, _TILES, side, _TILES, side).transpose(2, 3).reshape(scenes * _TILES * _TILES, side * side)
        for part in floor[:2]
    ]
    occluded = floor[0].new_zeros(scenes * 3 * _TILES * _TILES, side * side)
    overlaps = _shadow_overlaps(geometry, [part.view(scenes, _TILES * _TILES, side * side) for part in tiled])
    scene, light, number, tile = overlaps.nonzero().unbind(1)
    tile_index = scene * _TILES * _TILES + tile
    source, centre = _select(geometry.lights, scene * 3 + light), _select(geometry.centre, scene * objects + number)
    ray = (
        tiled[0].index_select(0, tile_index) - source[0][:, None],
        tiled[1].index_select(0, tile_index) - source[1][:, None],
        (-source[2][:, None]).expand(-1, side * side),
    )
    offset = source[0] - centre[0], source[1] - centre[1], source[2] - centre[2]
    fraction = occlusion(geometry, scene * objects + number, offset, ray)
    target = (scene * 3 + light) * _TILES * _TILES + tile
    occluded.scatter_reduce_(0, target[:, None].expand_as(fraction), fraction, "amax")
    return occluded.view(scenes, 3, _TILES, _TILES, side, side).transpose(3, 4).reshape(scenes, 3, points * points)


def _shadow_overlaps(geometry: Geometry, tiled: list[Tensor]) -> Tensor:
    """Return whether the bounding box of a shadow overlaps a tile of floor points `(B, T, N)`: `(B, 3, O, T)`.

    The bounding box of a shadow is that of the shadows of the corners of the object's axis-aligned bounding box.
    """
    lights, centre = geometry.lights[..., None], geometry.centre[:, :, None]
    cos, sin = geometry.rotation.abs()
    half_width = torch.where(geometry.shape == 0, (cos + sin) * geometry.extent, geometry.extent)[:, None]
    overlaps = (geometry.shape >= 0)[:, None, :, None]
    for axis in (0, 1):
        corners = []
        for top in (geometry.extent[:, None], -geometry.extent[:, None]):
            scale = lights[2] / (lights[2] - centre[2] - top).clamp(min=0.1)
            corners += [lights[axis] + (centre[axis] + sign * half_width - lights[axis]) * scale for sign in (-1, 1)]
        low, high = torch.stack(corners).amin(0)[..., None], torch.stack(corners).amax(0)[..., None]
        tile_low, tile_high = tiled[axis].amin(-1)[:, None, None], tiled[axis].amax(-1)[:, None, None]
        overlaps = overlaps & (low <= tile_high) & (tile_low <= high)
    return overlaps


def ambient_occlusion(geometry: Geometry, floor: Vector) -> Tensor:
    """Compute the fraction of the ambient light that reaches the floor near objects.

    Args:
        geometry: B scenes.
        floor: Points of the floor `(B, N)`.

    Returns:
        Visible fraction in [0.2, 1], `(B, N)`.
    """
    occluded = torch.zeros_like(floor[0])
    for number in range(geometry.shape.shape[1]):
        x, y = (floor[axis] - geometry.centre[axis, :, number, None] for axis in (0, 1))
        square = (geometry.extent[:, number] * geometry.extent[:, number])[:, None]
        sine_squared = square / (x * x + y * y + square)  # a sphere occludes the cube of the sine of its angular radius
        occluded += torch.where(geometry.shape[:, number, None] >= 0, sine_squared * sine_squared.sqrt(), 0)
    return (1 - _AMBIENT_OCCLUSION * occluded).clamp(min=0.2)


def object_shadows(geometry: Geometry, objects: Tensor, points: Vector) -> Tensor:
    """Compute the fraction of each light that other objects occlude from points on objects.

    Args:
        geometry: B scenes of O objects.
        objects: Indices of the objects among all B * O, `(M,)`.
        points: A point on each object in the scene, `(M,)`.

    Returns:
        Occluded fraction in [0, 1], `(M, 3)`.
    """
    count = geometry.shape.shape[1]
    occluded = points[0].new_zeros(len(objects) * 3)
    point, light, number = _may_occlude(geometry).flatten(0, 1).index_select(0, objects).nonzero().unbind(1)
    scene = objects[point] // count
    source, centre = _select(geometry.lights, scene * 3 + light), _select(geometry.centre, scene * count + number)
    x, y, z = (
        coordinate.index_select(0, point) - position for coordinate, position in zip(points, source, strict=True)
    )
    offset = source[0] - centre[0], source[1] - centre[1], source[2] - centre[2]
    fraction = occlusion(geometry, scene * count + number, offset, (x, y, z))
    return occluded.scatter_reduce_(0, point * 3 + light, fraction, "amax").view(len(objects), 3)


def _may_occlude(geometry: Geometry) -> Tensor:
    """Return whether an object may occlude a light from another: `(B, O, 3, O)`, shaded object, light, occluder.

    It may where its bounding sphere meets the cone from the light around the bounding sphere of the shaded object.
    """
    centre, lights, present = geometry.centre, geometry.lights, geometry.shape >= 0
    radius = geometry.extent * torch.tensor(_BOUNDING_RADII, device=present.device)[geometry.shape.clamp(min=0)]
    offset = lights[:, :, :, None] - centre[:, :, None, :]  # coordinate, scene, light, object
    near, far = offset[:, :, None], offset.transpose(2, 3)[..., None]
    near_square = near[0] * near[0] + near[1] * near[1] + near[2] * near[2]
    far_square = far[0] * far[0] + far[1] * far[1] + far[2] * far[2]
    product = near[0] * far[0] + near[1] * far[1] + near[2] * far[2]
    along = product / far_square  # ray parameter at which the ray to the shaded centre passes the occluder
    distance = (near_square - along * product).clamp(min=0).sqrt()
    meets = (along > 0) & (distance <= radius[:, None, None, :] + along * radius[:, :, None, None] + _TOLERANCE)
    different = ~torch.eye(present.shape[1], dtype=torch.bool, device=present.device)[:, None]
    return meets & (near_square <= far_square) & different & present[:, :, None, None] & present[:, None, None, :]
