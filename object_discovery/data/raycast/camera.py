"""Pinhole camera: projection of points, and rays through pixels.

The frame is the published crop of CLEVR: rows 29 to 220 and columns 64 to 255 of 240 x 320 pixels. Image
coordinates are in units of its side, column and row from the top left corner.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor

FOCAL_LENGTH = 350 / 192
"""Focal length in units of the frame's side: 35 mm on a sensor of 32 mm is 350 of 320 pixels; the crop has 192."""
PRINCIPAL_POINT = (0.5, (120 - 29) / 192)
"""Principal point in the frame: column, row."""


class Camera(NamedTuple):
    """Positions and orthonormal axes of B cameras; each field is `(B, 3)`."""

    eye: npt.NDArray[np.float64]
    right: npt.NDArray[np.float64]
    up: npt.NDArray[np.float64]
    forward: npt.NDArray[np.float64]


def look_at_origin(eye: npt.NDArray[np.float64]) -> Camera:
    """Compute upright cameras that look at the origin.

    Args:
        eye: Positions of the cameras `(B, 3)`, not directly above or below the origin.

    Returns:
        The cameras.

    Example:
        >>> camera = look_at_origin(np.array([[0.0, -4.0, 3.0]]))
        >>> camera.right.tolist(), camera.up.tolist()
        ([[1.0, 0.0, 0.0]], [[-0.0, 0.6, 0.8]])
    """
    x, y, z = eye.T
    ground = np.sqrt(x * x + y * y)
    length = np.sqrt(x * x + y * y + z * z)
    right = np.stack([-y / ground, x / ground, np.zeros_like(x)], axis=1)
    up = np.stack([-x * z / (ground * length), -y * z / (ground * length), ground / length], axis=1)
    return Camera(eye, right, up, -eye / length[:, None])


def project(camera: Camera, points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Project points to the frame.

    Args:
        camera: B cameras.
        points: Points in front of the cameras, `(B, ..., 3)`.

    Returns:
        Column and row `(B, ..., 2)` in units of the frame's side; in [0, 1] inside the frame.

    Example:
        >>> camera = look_at_origin(np.array([[0.0, -4.0, 3.0]]))
        >>> project(camera, np.zeros((1, 3))).round(3).tolist()
        [[0.5, 0.474]]
    """
    eye, right, up, forward = (axis.reshape(len(axis), *[1] * (points.ndim - 2), 3) for axis in camera)
    offset = points - eye

    def dot(axis: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        # not a library function, whose order of summation may depend on the shape
        return np.asarray(offset[..., 0] * axis[..., 0] + offset[..., 1] * axis[..., 1] + offset[..., 2] * axis[..., 2])

    scale = FOCAL_LENGTH / dot(forward)
    return np.stack([PRINCIPAL_POINT[0] + dot(right) * scale, PRINCIPAL_POINT[1] - dot(up) * scale], axis=-1)


def ray_slopes(coordinates: Tensor) -> tuple[Tensor, Tensor]:
    """Convert image coordinates to slopes of rays.

    The ray through column x and row y has the direction forward + u(x) * right + v(y) * up.

    Args:
        coordinates: Columns or rows in units of the frame's side; any shape.

    Returns:
        Slopes u of the coordinates as columns, and slopes v of the same coordinates as rows.

    Example:
        >>> [round(slope.item(), 4) for slope in ray_slopes(Tensor([0.5]))]
        [0.0, -0.0143]
    """
    return (coordinates - PRINCIPAL_POINT[0]) / FOCAL_LENGTH, (PRINCIPAL_POINT[1] - coordinates) / FOCAL_LENGTH
