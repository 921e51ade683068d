"""Random layouts of scenes: objects, camera and lights, after the generator of CLEVR.

Computed in float64 by correctly rounded operations, so that layouts are the same on every machine.

Reference:
    Johnson et al., CLEVR, arXiv:1612.06890.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from object_discovery.data.raycast.camera import Camera, look_at_origin, project
from object_discovery.data.raycast.random_numbers import integers, uniform

MAX_OBJECTS = 10
"""Maximum number of objects in a scene."""
SIZES = (0.35, 0.7)
"""Small and large size in scene units: radius of spheres and cylinders, half height of cylinders; see `CUBE_SIDE`."""
MATERIALS = ("rubber", "metal")
"""Materials of objects."""
SHAPES = ("cube", "sphere", "cylinder")
"""Shapes of objects."""
COLOURS = {
    "gray": (87, 87, 87),
    "red": (173, 35, 35),
    "blue": (42, 75, 215),
    "green": (29, 105, 20),
    "brown": (129, 74, 25),
    "purple": (129, 38, 192),
    "cyan": (41, 208, 208),
    "yellow": (255, 238, 51),
}
"""Colours of objects, sRGB."""
MAX_COORDINATE = 3.0
"""Maximum absolute x and y of objects."""
DISTANCE = 0.25
"""Minimum distance between the circles with radius `SIZES` around two objects."""
MARGIN = 0.2
"""Minimum distance of two objects along the camera's right and forward axes. CLEVR uses 0.4, in a wider frame."""
CUBE_SIDE = 0.95
"""Ratio of half side to size of a cube, measured in the published images, where cubes have rounded edges."""

_EYE, _EYE_JITTER = (7.48, -6.5, 5.34), 0.5
# key, fill and back light
_LIGHTS, _LIGHT_JITTER = ((6.45, -2.91, 4.26), (-4.67, -4.01, 3.01), (-1.17, 2.65, 5.82)), 1.0
_CANDIDATES = 24  # candidate positions of an object


class Layout(NamedTuple):
    """Layouts of B scenes of up to 10 objects; absent objects come last."""

    present: npt.NDArray[np.bool_]
    """Whether each object exists, `(B, 10)`."""
    shape: npt.NDArray[np.int64]
    """Indices into `SHAPES`, `(B, 10)`."""
    size: npt.NDArray[np.int64]
    """Indices into `SIZES`, `(B, 10)`."""
    material: npt.NDArray[np.int64]
    """Indices into `MATERIALS`, `(B, 10)`."""
    colour: npt.NDArray[np.int64]
    """Indices into `COLOURS`, `(B, 10)`."""
    rotation: npt.NDArray[np.float64]
    """Cosine and sine of the rotation about the vertical axis, `(B, 10, 2)`."""
    position: npt.NDArray[np.float64]
    """Centres `(B, 10, 3)`: x, y, z in scene units; the floor is z = 0."""
    eye: npt.NDArray[np.float64]
    """Positions of the cameras, which look at the origin, `(B, 3)`."""
    lights: npt.NDArray[np.float64]
    """Positions of key, fill and back light, `(B, 3, 3)`."""

    def take(self, scenes: npt.NDArray[np.int64]) -> Layout:
        """Select scenes by index."""
        fields: list[Any] = [field[scenes] for field in self]
        return Layout(*fields)


def sample_layouts(
    indices: npt.NDArray[np.int64], seed: int, counts: tuple[int, int], trial: int
) -> tuple[Layout, npt.NDArray[np.bool_]]:
    """Sample layouts; trials of a scene share camera, lights and number of objects.

    Args:
        indices: Indices of the scenes, `(B,)`.
        seed: Seed of the dataset.
        counts: Minimum and maximum number of objects.
        trial: Index of the trial, at least 0.

    Returns:
        The layouts, and whether all objects of a scene could be placed `(B,)`.

    Example:
        >>> layout, placed = sample_layouts(np.arange(4), seed=0, counts=(3, 3), trial=0)
        >>> layout.present.sum(1).tolist()
        [3, 3, 3, 3]
    """
    num_objects = counts[0] + integers(uniform(indices, 1, seed=seed)[:, 0], counts[1] - counts[0] + 1)
    jitter = 2 * uniform(indices, 12, seed=seed, stream=1) - 1
    eye = np.array(_EYE) + _EYE_JITTER * jitter[:, :3]
    lights = np.array(_LIGHTS) + _LIGHT_JITTER * jitter[:, 3:].reshape(-1, 3, 3)
    numbers = uniform(indices, MAX_OBJECTS * (5 + 2 * _CANDIDATES), seed=seed, stream=3 + trial)
    numbers = numbers.reshape(len(indices), MAX_OBJECTS, 5 + 2 * _CANDIDATES)
    kinds = [integers(numbers[..., i], high) for i, high in enumerate((len(SHAPES), 2, 2, len(COLOURS)))]
    angle = 2 * math.pi * numbers[..., 4]
    # rounded, as cos and sin may differ in the last bits between math libraries
    rotation = np.round(np.stack([np.cos(angle), np.sin(angle)], axis=-1) * 2**16) / 2**16
    present = np.arange(MAX_OBJECTS) < num_objects[:, None]
    candidates = MAX_COORDINATE * (2 * numbers[..., 5:].reshape(len(indices), MAX_OBJECTS, _CANDIDATES, 2) - 1)
    size = np.array(SIZES)[kinds[1]]
    ground, placed = _place_objects(candidates, size, present, look_at_origin(eye))
    position = np.concatenate([ground, size[..., None]], axis=-1)
    layout = Layout(present, kinds[0], kinds[1], kinds[2], kinds[3], rotation, position, eye, lights)
    return layout, placed


def _place_objects(
    candidates: npt.NDArray[np.float64], size: npt.NDArray[np.float64], present: npt.NDArray[np.bool_], camera: Camera
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Place the objects one by one at the first of their candidates `(B, 10, C, 2)` that is valid.

    A valid position is inside the frame and far enough from the previous objects, see `DISTANCE` and `MARGIN`.

    Returns:
        Positions on the floor `(B, 10, 2)`, and whether all objects of a scene could be placed `(B,)`.
    """
    position: npt.NDArray[np.float64] = candidates[:, :, 0].copy()
    placed = np.ones(len(position), dtype=bool)
    for number in range(MAX_OBJECTS):
        scenes = np.flatnonzero(present[:, number] & placed)
        proposed, cameras = candidates[scenes, number], Camera(*(axis[scenes] for axis in camera))
        height = np.broadcast_to(size[scenes, number, None, None], (*proposed.shape[:2], 1))
        projected = project(cameras, np.concatenate([proposed, height], axis=-1))
        valid = ((projected >= 0) & (projected <= 1)).all(-1)
        offset = proposed[:, :, None] - position[scenes, None, :number]
        x, y = offset[..., 0], offset[..., 1]
        min_distance = DISTANCE + size[scenes, None, :number] + size[scenes, number, None, None]
        valid &= (x * x + y * y >= min_distance * min_distance).all(-1)
        for axis in (cameras.right, cameras.forward):
            length = np.sqrt(axis[:, 0] * axis[:, 0] + axis[:, 1] * axis[:, 1])[:, None, None]
            component = x * axis[:, 0, None, None] + y * axis[:, 1, None, None]
            valid &= (np.abs(component) >= MARGIN * length).all(-1)
        placed[scenes] = valid.any(1)
        position[scenes, number] = proposed[np.arange(len(scenes)), valid.argmax(1)]
    return position, placed


def arrange_in_rows(layout: Layout) -> Layout:
    """Make all objects small and arrange them in three rows, where each is visible from any camera position.

    Args:
        layout: B layouts.

    Returns:
        The layouts with other sizes and positions.
    """
    camera = look_at_origin(layout.eye)
    rows = np.array([[right, front] for front in (2.4, 0.6, -1.2) for right in (-1.6, -0.55, 0.55, 1.6)])[:MAX_OBJECTS]
    ground = np.zeros((*layout.size.shape, 2))
    for axis, direction in enumerate((camera.right[:, :2], -camera.forward[:, :2])):
        length = np.sqrt(direction[:, :1] * direction[:, :1] + direction[:, 1:] * direction[:, 1:])
        ground += rows[:, axis, None] * (direction / length)[:, None]
    size = np.zeros_like(layout.size)
    height = np.full((*size.shape, 1), SIZES[0])
    return layout._replace(size=size, position=np.concatenate([ground, height], axis=-1))


def set_prediction_targets(layout: Layout) -> npt.NDArray[np.float32]:
    """Encode the objects as targets of set prediction, see `data.object_encoding`.

    Args:
        layout: B layouts.

    Returns:
        Targets, float32 `(B, 10, 19)`: x, y, z scaled from [-3, 3] to [0, 1]; one-hot size (2, large first), material
        (2), shape (3) and colour (8), in the order of `object_encoding.ATTRIBUTES`; presence. Absent objects are 0.

    Example:
        >>> layout, _ = sample_layouts(np.arange(2), seed=0, counts=(4, 4), trial=0)
        >>> set_prediction_targets(layout)[..., -1].sum(1).tolist()
        [4.0, 4.0]
    """
    large_first = len(SIZES) - 1 - layout.size
    one_hot = [
        np.eye(num_values)[field]
        for field, num_values in (
            (large_first, 2),
            (layout.material, 2),
            (layout.shape, 3),
            (layout.colour, len(COLOURS)),
        )
    ]
    position = (layout.position + MAX_COORDINATE) / (2 * MAX_COORDINATE)
    targets = np.concatenate([position, *one_hot, np.ones((*layout.size.shape, 1))], axis=-1)
    return np.asarray(np.where(layout.present[..., None], targets, 0), dtype=np.float32)
