"""Primary rays: exact label maps and depth.

The frame is divided into 8 x 8 tiles; an object is intersected only in the tiles that its bounding box overlaps.
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
_LABEL_MASK = 15  # the last 4 bits of a packed depth
_CORNERS = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)])


class Geometry(NamedTuple):
    """Layouts of B scenes of O = 10 objects as float32 tensors; the coordinate axis of vectors comes first."""

    shape: Tensor
    """Indices into `SHAPES`, `(B, O)`; -1 for absent objects."""
    extent: Tensor
    """Radius, or half side of a cube, in scene units, `(B, O)`."""
    rotation: Tensor
    """Cosine and sine of the rotation, `(2, B, O)`."""
    centre: Tensor
    """Centres of the objects, `(3, B, O)`."""
    eye: Tensor
    """Positions of the cameras, `(3, B)`."""
    axes: Tensor
    """Right, up and forward axes of the cameras, `(3, 3, B)`: axis, coordinate, scene."""
    lights: Tensor
    """Positions of key, fill and back light, `(3, B, 3)`: coordinate, scene, light."""
    overlaps: Tensor
    """Whether the bounding box of an object overlaps a tile, `(B, O, 8, 8)`: row, column."""

    def to_object_frame(self, vector: Vector, objects: Tensor) -> Vector:
        """Rotate vectors to the frames of objects, given by their indices among all B * O."""
        cos, sin = self.rotation.flatten(1).index_select(1, objects)
        while cos.dim() < vector[0].dim():
            cos, sin = cos[:, None], sin[:, None]
        return cos * vector[0] + sin * vector[1], cos * vector[1] - sin * vector[0], vector[2]


def make_geometry(layout: Layout, device: torch.device | str = "cpu") -> Geometry:
    """Convert layouts to tensors for ray casting.

    Args:
        layout: B layouts.
        device: Device of the tensors.

    Returns:
        The geometry on the device.
    """

    def tensor(array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32)).to(device)

    camera = look_at_origin(layout.eye)
    extent = np.array(SIZES)[layout.size] * np.where(layout.shape == 0, CUBE_SIDE, 1.0)
    cos, sin = layout.rotation[..., :1], layout.rotation[..., 1:]
    x, y, z = (extent[..., None] * _CORNERS[:, axis] for axis in range(3))
    corners = np.stack([cos * x - sin * y, sin * x + cos * y, z], axis=-1) + layout.position[:, :, None]
    projected = TILES * project(camera, corners)
    low, high = np.floor(projected.min(2) - 1e-3), np.floor(projected.max(2) + 1e-3)
    tile = np.arange(TILES)
    columns, rows = ((low[..., axis, None] <= tile) & (tile <= high[..., axis, None]) for axis in (0, 1))
    overlaps = rows[..., :, None] & columns[..., None, :] & layout.present[..., None, None]
    return Geometry(
        torch.from_numpy(np.where(layout.present, layout.shape, -1)).to(device),
        tensor(extent),
        tensor(np.moveaxis(layout.rotation, -1, 0)),
        tensor(np.moveaxis(layout.position, -1, 0)),
        tensor(layout.eye.T),
        tensor(np.stack([axis.T for axis in camera[1:]])),
        tensor(np.moveaxis(layout.lights, -1, 0)),
        torch.from_numpy(overlaps).to(device),
    )


def pixel_slopes(resolution: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the slopes of the rays through the centres of columns and rows, see `ray_slopes`.

    Columns and rows are padded to a multiple of 8.
    """
    size = -(-resolution // TILES) * TILES
    return ray_slopes((torch.arange(size, dtype=torch.float32, device=device) + 0.5) / resolution)


def cast_primary(geometry: Geometry, resolution: int) -> tuple[Tensor, Tensor]:
    """Intersect the ray through the centre of each pixel with all objects and the floor.

    Args:
        geometry: B scenes.
        resolution: Height and width of the frame in pixels.

    Returns:
        Label maps, uint8 `(B, H, W)`: 0 floor, 1 to 10 objects; depth along the optical axis (not along the ray) in
        scene units, float32 `(B, H, W)`, accurate to six digits.
    """
    device, scenes = geometry.eye.device, len(geometry.shape)
    columns, rows = pixel_slopes(resolution, device)
    side = len(rows) // TILES
    down = geometry.axes[2, 2, :, None] + rows * geometry.axes[1, 2, :, None]
    floor = -geometry.eye[2, :, None] / down.clamp(max=-1e-6)
    nearest = _pack(floor.reshape(scenes, TILES, 1, side, 1), torch.zeros((), dtype=torch.int32, device=device))
    nearest = nearest.expand(scenes, TILES, TILES, side, side).reshape(scenes * TILES * TILES, side * side).contiguous()
    for shape, interval in enumerate(INTERVALS):
        scene, number, row, column = (
            (geometry.overlaps & (geometry.shape == shape)[..., None, None]).nonzero().unbind(1)
        )
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
    return (frame & _LABEL_MASK).byte(), (frame & ~_LABEL_MASK).view(torch.float32)


def _pack(depth: Tensor, label: Tensor) -> Tensor:
    """Store a label in the last bits of depths, as int32; the minimum over surfaces is the nearest one."""
    return (depth.contiguous().view(torch.int32) & ~_LABEL_MASK) | label


def _local_rays(geometry: Geometry, scene: Tensor, objects: Tensor, v: Tensor, u: Tensor) -> tuple[Vector, Vector]:
    """Return origins `(P, 1, 1)` and directions `(P, h, w)` of rays in the frames of objects `(P,)`.

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
