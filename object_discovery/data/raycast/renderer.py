"""Pictures of scenes: labels, depths and colours from one cast of rays."""

from __future__ import annotations

import torch
from torch import Tensor

from object_discovery.data.raycast import shadows, textures
from object_discovery.data.raycast.camera import ray_slopes
from object_discovery.data.raycast.layout import COLOURS
from object_discovery.data.raycast.primary import Geometry, cast_primary, pixel_slopes
from object_discovery.data.raycast.shading import FLOOR, Surface, floor_brightness, normalise, normals


def render(
    geometry: Geometry, material: Tensor, colour: Tensor, resolution: int, materials: textures.Textures | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Render scenes.

    Args:
        geometry: B scenes of O = 10 objects.
        material: Indices into `MATERIALS`, `(B, O)`.
        colour: Indices into `COLOURS`, `(B, O)`.
        resolution: Height and width in pixels.
        materials: Procedural materials in place of the colours. None: plain colours on a gray floor.

    Returns:
        Images `(B, H, W, 3)`, uint8; label maps `(B, H, W)`, uint8; depths `(B, H, W)`, float32.
    """
    labels, depth = cast_primary(geometry, resolution)
    image = _floor(geometry, resolution, materials)
    covered = labels.flatten().nonzero()[:, 0]
    image.index_copy_(1, covered, _objects(geometry, material, colour, labels, depth, covered, materials))
    _smooth_edges(image, labels)
    return _encode(image).view(3, *labels.shape).permute(1, 2, 3, 0).contiguous(), labels, depth


def _floor(geometry: Geometry, resolution: int, materials: textures.Textures | None) -> Tensor:
    """Colour the floor as if there were no objects on it but their shadows: linear RGB `(3, B * H * W)`.

    Brightness is smooth, so that it is computed at every second pixel only, and interpolated.
    """
    scenes = len(geometry.shape)
    points = 1 + (resolution + 1) // 2
    points += -points % 5
    places = torch.arange(points, dtype=torch.float32, device=geometry.eye.device) * (2 / resolution)
    grid = shadows.floor_points(geometry, *ray_slopes(places))
    hidden = shadows.floor_shadows(geometry, grid, points)
    brightness = floor_brightness(geometry, grid, hidden, shadows.ambient_occlusion(geometry, grid))
    fine = brightness.view(scenes, points, points)
    for axis in (1, 2):
        low, high = fine.narrow(axis, 0, points - 1), fine.narrow(axis, 1, points - 1)
        fine = torch.stack([0.75 * low + 0.25 * high, 0.25 * low + 0.75 * high], dim=axis + 1).flatten(axis, axis + 1)
    fine = fine[:, :resolution, :resolution].flatten(1)
    if materials is None:
        return torch.stack([channel * fine for channel in FLOOR]).flatten(1)
    surfaces = torch.arange(scenes, device=fine.device) * (1 + geometry.shape.shape[1])
    u, v = (part[:resolution] for part in pixel_slopes(resolution, fine.device))
    point = shadows.floor_points(geometry, u, v)
    return torch.stack([channel * fine for channel in textures.albedo(materials, surfaces, point, flat=True)]).flatten(
        1
    )


def _objects(
    geometry: Geometry,
    material: Tensor,
    colour: Tensor,
    labels: Tensor,
    depth: Tensor,
    covered: Tensor,
    materials: textures.Textures | None,
) -> Tensor:
    """Colour the pixels `covered` `(M,)` by objects: linear RGB `(3, M)`."""
    count, resolution = geometry.shape.shape[1], labels.shape[1]
    scene = covered // (resolution * resolution)
    objects = scene * count + labels.flatten()[covered].long() - 1
    columns, rows = pixel_slopes(resolution, covered.device)
    u, v = columns[covered % resolution], rows[covered // resolution % resolution]
    t = depth.flatten()[covered]
    right, up, forward = geometry.axes.index_select(2, scene)
    eye, centre = geometry.eye.index_select(1, scene), geometry.centre.flatten(1).index_select(1, objects)
    ray = [forward[axis] + u * right[axis] + v * up[axis] for axis in range(3)]
    x, y, z = (eye[axis] + t * ray[axis] for axis in range(3))
    local = geometry.to_object_frame((x - centre[0], y - centre[1], z - centre[2]), objects)
    extent = geometry.extent.flatten()[objects]
    nx, ny, nz = normals(geometry.shape.flatten()[objects], extent, local)
    cos, sin = geometry.rotation.flatten(1).index_select(1, objects)
    normal = cos * nx - sin * ny, sin * nx + cos * ny, nz
    surface = Surface((x, y, z), normal, normalise((-ray[0], -ray[1], -ray[2])), material.flatten()[objects] == 1)
    hidden = shadows.object_shadows(geometry, objects, (x, y, z))
    if materials is None:
        palette = torch.tensor(list(COLOURS.values()), dtype=torch.float32, device=t.device) / 255
        red, green, blue = palette[colour.flatten()[objects]].unbind(1)
    else:
        red, green, blue = textures.albedo(materials, scene * (1 + count) + 1 + objects % count, local)
    return torch.stack(
        surface.shade(geometry.lights.transpose(1, 2).index_select(2, scene), hidden, (red, green, blue))
    )


def _smooth_edges(image: Tensor, labels: Tensor) -> None:
    """Blend the pixels at the edges of labels with their neighbours, in place; a tent of 3 x 3 pixels.

    `image` is `(3, B * H * W)`.
    """
    height, width = labels.shape[1:]
    edge = torch.zeros_like(labels, dtype=torch.bool)
    across, down = labels[:, :, 1:] != labels[:, :, :-1], labels[:, 1:] != labels[:, :-1]
    edge[:, :, 1:] |= across
    edge[:, :, :-1] |= across
    edge[:, 1:] |= down
    edge[:, :-1] |= down
    place = edge.flatten().nonzero()[:, 0]
    row, column = place // width % height, place % width
    total = torch.zeros(len(image), len(place), device=image.device)
    for weight_down, step in ((0.25, -1), (0.5, 0), (0.25, 1)):
        there = place + ((row + step).clamp(0, height - 1) - row) * width
        for weight, aside in ((0.25, -1), (0.5, 0), (0.25, 1)):
            total += weight_down * weight * image.index_select(1, there + (column + aside).clamp(0, width - 1) - column)
    image.index_copy_(1, place, total)


def _encode(image: Tensor) -> Tensor:
    """Turn linear RGB into 8 bits of sRGB, whose curve is fitted by square roots: they are exact everywhere."""
    image = image.clamp(0, 1)
    root = image.sqrt()
    fourth = root.sqrt()
    encoded = 0.662002687 * root + 0.684122060 * fourth - 0.323583601 * fourth.sqrt() - 0.0225411470 * image
    return (255 * encoded.clamp(0, 1) + 0.5).byte()
