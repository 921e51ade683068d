"""The first surface that each pixel sees: exact label maps and depths.

The frame is cut into 8 x 8 tiles, and each object is intersected in the tiles only that its bounding box touches.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from object_discovery.data.raycast.camera import look_at_origin, project, ray_slopes
from object_discovery.data.raycast.intersection import INTERVALS, Vector
from object_discovery.data.raycast.layout import CUBE_SIDE, SIZES, Layout

TILES = 8
"""Tiles along each side of the frame."""
_LABEL_BITS = 15
_CORNERS = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)])


class Geometry(NamedTuple):
    """Layouts as float32 tensors, O = 10; vectors have their coordinates first."""

    shape: Tensor
    """Indices into `SHAPES`, `(B, O)`; -1 where there is no object."""
    extent: Tensor
    """Radius, or half the side of a cube, `(B, O)`."""
    rotation: Tensor
    """Cosine and sine of the rotation, `(2, B, O)`."""
    centre: Tensor
    """`(3, B, O)`."""
    eye: Tensor
    """`(3, B)`."""
    axes: Tensor
    """Right, up and forward of the camera, `(3, 3, B)`: axis, coordinate, scene."""
    lights: Tensor
    """Key, fill and back light, `(3, B, 3)`."""
    touched: Tensor
    """Which tiles each object may appear in, `(B, O, 8, 8)`: row, column."""

    def to_object_frame(self, vector: Vector, objects: Tensor) -> Vector:
        """Turn vectors into the coordinates of objects, given by their numbers in the B * O objects."""
        cos, sin = self.rotation.flatten(1).index_select(1, objects)
        while cos.dim() < vector[0].dim():
            cos, sin = cos[:, None], sin[:, None]
        return cos * vector[0] + sin * vector[1], cos * vector[1] - sin * vector[0], vector[2]


def make_geometry(layout: Layout, device: torch.device | str = "cpu") -> Geometry:
    """Prepare scenes for casting rays.

    Args:
        layout: B scenes.
        device: Where to cast them.

    Returns:
        The scenes on the device.
    """

    def tensor(array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32)).to(device)

    camera = look_at_origin(layout.eye)
    extent = np.array(SIZES)[layout.size] * np.where(layout.shape == 0, CUBE_SIDE, 1.0)
    cos, sin = layout.rotation[..., :1], layout.rotation[..., 1:]
    x, y, z = (extent[..., None] * _CORNERS[:, axis] for axis in range(3))
    corners = np.stack([cos * x - sin * y, sin * x + cos * y, z], axis=-1) + layout.position[:, :, None]
    seen = TILES * project(camera, corners)
    low, high = np.floor(seen.min(2) - 1e-3), np.floor(seen.max(2) + 1e-3)
    tile = np.arange(TILES)
    columns, rows = ((low[..., axis, None] <= tile) & (tile <= high[..., axis, None]) for axis in (0, 1))
    touched = rows[..., :, None] & columns[..., None, :] & layout.present[..., None, None]
    return Geometry(
        torch.from_numpy(np.where(layout.present, layout.shape, -1)).to(device),
        tensor(extent),
        tensor(np.moveaxis(layout.rotation, -1, 0)),
        tensor(np.moveaxis(layout.position, -1, 0)),
        tensor(layout.eye.T),
        tensor(np.stack([axis.T for axis in camera[1:]])),
        tensor(np.moveaxis(layout.lights, -1, 0)),
        torch.from_numpy(touched).to(device),
    )


def pixel_slopes(resolution: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the slopes of the rays through the centres of columns and rows, `(resolution,)` each.

    Columns and rows beyond the resolution, up to a multiple of 8, continue the frame.
    """
    size = -(-resolution // TILES) * TILES
    return ray_slopes((torch.arange(size, dtype=torch.float32, device=device) + 0.5) / resolution)


def cast_primary(geometry: Geometry, resolution: int) -> tuple[Tensor, Tensor]:
    """Find the first surface on the ray through each pixel's centre.

    Args:
        geometry: B scenes.
        resolution: Height and width of the frame in pixels.

    Returns:
        Label maps `(B, H, W)`, uint8, 0 for the floor and 1 to 10 for the objects; depths `(B, H, W)`, float32, along
        the camera's axis (not along the ray), exact to six digits.
    """
    device, scenes = geometry.eye.device, len(geometry.shape)
    columns, rows = pixel_slopes(resolution, device)
    side = len(rows) // TILES
    down = geometry.axes[2, 2, :, None] + rows * geometry.axes[1, 2, :, None]
    floor = -geometry.eye[2, :, None] / down.clamp(max=-1e-6)
    nearest = _pack(floor.reshape(scenes, TILES, 1, side, 1), torch.zeros((), dtype=torch.int32, device=device))
    nearest = nearest.expand(scenes, TILES, TILES, side, side).reshape(scenes * TILES * TILES, side * side).contiguous()
    for shape, interval in enumerate(INTERVALS):
        scene, number, row, column = (geometry.touched & (geometry.shape == shape)[..., None, None]).nonzero().unbind(1)
        objects = scene * geometry.shape.shape[1] + number
        origin, direction = _local_rays(
            geometry, scene, objects, rows.view(TILES, side)[row], columns.view(TILES, side)[column]
        )
        enter, leave = interval(origin, direction, geometry.extent.flatten()[objects, None, None])
        hit = _pack(enter, (1 + number).int()[:, None, None])
        hit = torch.where((enter < leave) & (enter > 0), hit, torch.iinfo(torch.int32).max).flatten(1)
        tile = (scene * TILES + row) * TILES + column
        nearest.scatter_reduce_(0, tile[:, None].expand_as(hit), hit, "amin")
    frame = nearest.view(scenes, TILES, TILES, side, side).transpose(2, 3).reshape(scenes, TILES * side, TILES * side)
    frame = frame[:, :resolution, :resolution].contiguous()
    return (frame & _LABEL_BITS).byte(), (frame & ~_LABEL_BITS).view(torch.float32)


def _pack(depth: Tensor, label: Tensor) -> Tensor:
    """Put a label into the last bits of depths; the least of the results belongs to the nearest surface."""
    return (depth.contiguous().view(torch.int32) & ~_LABEL_BITS) | label


def _local_rays(geometry: Geometry, scene: Tensor, objects: Tensor, v: Tensor, u: Tensor) -> tuple[Vector, Vector]:
    """Return origins `(P, 1, 1)` and directions `(P, h, w)` of rays in the coordinates of objects `(P,)`.

    `v` `(P, h)` and `u` `(P, w)` are the slopes of rows and columns.
    """
    eye, centre = geometry.eye.index_select(1, scene), geometry.centre.flatten(1).index_select(1, objects)
    origin = geometry.to_object_frame((eye[0] - centre[0], eye[1] - centre[1], eye[2] - centre[2]), objects)
    axes = geometry.axes[:, :, scene]
    right, up, forward = (geometry.to_object_frame((axis[0], axis[1], axis[2]), objects) for axis in axes)

    def direction(axis: int) -> Tensor:
        along_rows = forward[axis][:, None] + v * up[axis][:, None]
        return along_rows[:, :, None] + (u * right[axis][:, None])[:, None, :]

    x, y, z = (part[:, None, None] for part in origin)
    return (x, y, z), (direction(0), direction(1), direction(2))
