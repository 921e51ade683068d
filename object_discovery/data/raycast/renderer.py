"""Rendering of images, label maps and depth."""

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
    """Render scenes by ray casting.

    Args:
        geometry: B scenes of O = 10 objects.
        material: Indices into `MATERIALS`, `(B, O)`.
        colour: Indices into `COLOURS`, `(B, O)`.
        resolution: Height and width in pixels.
        materials: Procedural textures in place of the colours. None: plain colours on a grey floor.

    Returns:
        Images, uint8 `(B, H, W, 3)`; label maps, uint8 `(B, H, W)`; depth, float32 `(B, H, W)`; see `cast_primary`.
    """
    labels, depth = cast_primary(geometry, resolution)
    image = _shade_floor(geometry, resolution, materials)
    pixels = labels.flatten().nonzero()[:, 0]
    image.index_copy_(1, pixels, _shade_objects(geometry, material, colour, labels, depth, pixels, materials))
    _antialias_edges(image, labels)
    return _encode_srgb(image).view(3, *labels.shape).permute(1, 2, 3, 0).contiguous(), labels, depth


def _shade_floor(geometry: Geometry, resolution: int, materials: textures.Textures | None) -> Tensor:
    """Shade the floor, with shadows of the objects but as if they were invisible: linear RGB `(3, B * H * W)`.

    Brightness is smooth, so that it is computed at every second pixel and interpolated.
    """
    scenes = len(geometry.shape)
    points = 1 + (resolution + 1) // 2
    points += -points % 5
    coordinates = torch.arange(points, dtype=torch.float32, device=geometry.eye.device) * (2 / resolution)
    grid = shadows.floor_points(geometry, *ray_slopes(coordinates))
    shadow = shadows.floor_shadows(geometry, grid, points)
    brightness = floor_brightness(geometry, grid, shadow, shadows.ambient_occlusion(geometry, grid))
    shade = brightness.view(scenes, points, points)
    for axis in (1, 2):
        low, high = shade.narrow(axis, 0, points - 1), shade.narrow(axis, 1, points - 1)
        shade = torch.stack([0.75 * low + 0.25 * high, 0.25 * low + 0.75 * high], dim=axis + 1).flatten(axis, axis + 1)
    shade = shade[:, :resolution, :resolution].flatten(1)
    if materials is None:
        return torch.stack([channel * shade for channel in FLOOR]).flatten(1)
    surfaces = torch.arange(scenes, device=shade.device) * (1 + geometry.shape.shape[1])
    u, v = (part[:resolution] for part in pixel_slopes(resolution, shade.device))
    point = shadows.floor_points(geometry, u, v)
    albedo = textures.albedo(materials, surfaces, point, flat=True)
    return torch.stack([channel * shade for channel in albedo]).flatten(1)


def _shade_objects(
    geometry: Geometry,
    material: Tensor,
    colour: Tensor,
    labels: Tensor,
    depth: Tensor,
    pixels: Tensor,
    materials: textures.Textures | None,
) -> Tensor:
    """Shade the pixels `(M,)` of objects, given as indices into all B * H * W: linear RGB `(3, M)`."""
    count, resolution = geometry.shape.shape[1], labels.shape[1]
    scene = pixels // (resolution * resolution)
    objects = scene * count + labels.flatten()[pixels].long() - 1
    columns, rows = pixel_slopes(resolution, pixels.device)
    u, v = columns[pixels % resolution], rows[pixels // resolution % resolution]
    t = depth.flatten()[pixels]
    right, up, forward = geometry.axes.index_select(2, scene)
    eye, centre = geometry.eye.index_select(1, scene), geometry.centre.flatten(1).index_select(1, objects)
    ray = [forward[axis] + u * right[axis] + v * up[axis] for axis in range(3)]
    x, y, z = (eye[axis] + t * ray[axis] for axis in range(3))
    local_point = geometry.to_object_frame((x - centre[0], y - centre[1], z - centre[2]), objects)
    extent = geometry.extent.flatten()[objects]
    nx, ny, nz = normals(geometry.shape.flatten()[objects], extent, local_point)
    cos, sin = geometry.rotation.flatten(1).index_select(1, objects)
    normal = cos * nx - sin * ny, sin * nx + cos * ny, nz
    surface = Surface((x, y, z), normal, normalise((-ray[0], -ray[1], -ray[2])), material.flatten()[objects] == 1)
    shadow = shadows.object_shadows(geometry, objects, (x, y, z))
    if materials is None:
        palette = torch.tensor(list(COLOURS.values()), dtype=torch.float32, device=t.device) / 255
        red, green, blue = palette[colour.flatten()[objects]].unbind(1)
    else:
        red, green, blue = textures.albedo(materials, scene * (1 + count) + 1 + objects % count, local_point)
    return torch.stack(
        surface.shade(geometry.lights.transpose(1, 2).index_select(2, scene), shadow, (red, green, blue))
    )


def _antialias_edges(image: Tensor, labels: Tensor) -> None:
    """Smooth the pixels at the edges of objects by a 3 x 3 tent filter, in place; `image` is `(3, B * H * W)`."""
    height, width = labels.shape[1:]
    is_edge = torch.zeros_like(labels, dtype=torch.bool)
    across, down = labels[:, :, 1:] != labels[:, :, :-1], labels[:, 1:] != labels[:, :-1]
    is_edge[:, :, 1:] |= across
    is_edge[:, :, :-1] |= across
    is_edge[:, 1:] |= down
    is_edge[:, :-1] |= down
    pixel = is_edge.flatten().nonzero()[:, 0]
    row, column = pixel // width % height, pixel % width
    total = torch.zeros(len(image), len(pixel), device=image.device)
    for row_weight, row_step in ((0.25, -1), (0.5, 0), (0.25, 1)):
        neighbour = pixel + ((row + row_step).clamp(0, height - 1) - row) * width
        for weight, step in ((0.25, -1), (0.5, 0), (0.25, 1)):
            source = neighbour + (column + step).clamp(0, width - 1) - column
            total += row_weight * weight * image.index_select(1, source)
    image.index_copy_(1, pixel, total)


def _encode_srgb(image: Tensor) -> Tensor:
    """Encode linear RGB as 8-bit sRGB; the curve is fitted by square roots, which are correctly rounded everywhere."""
    image = image.clamp(0, 1)
    root = image.sqrt()
    fourth = root.sqrt()
    encoded = 0.662002687 * root + 0.684122060 * fourth - 0.323583601 * fourth.sqrt() - 0.0225411470 * image
    return (255 * encoded.clamp(0, 1) + 0.5).byte()
