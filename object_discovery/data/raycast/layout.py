"""What stands where: objects, camera and lights of each scene, after the generator of CLEVR.

Everything here is computed in float64 by operations that are rounded the same way everywhere.

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
"""Largest number of objects in a scene."""
SIZES = (0.35, 0.7)
"""Small and large: the radius of spheres and cylinders, half the height of cylinders, about half the side of cubes."""
MATERIALS = ("rubber", "metal")
"""The materials."""
SHAPES = ("cube", "sphere", "cylinder")
"""The shapes."""
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
"""The colours, RGB."""
REACH = 3.0
"""Objects stand at x and y between -3 and 3."""
DISTANCE = 0.25
"""Least distance between the circles of size `SIZES` around two objects."""
MARGIN = 0.2
"""Least difference between two objects to the right, and to the front. CLEVR has 0.4, in a wider frame."""
CUBE_SIDE = 0.95
"""Side of a cube over twice its size, as measured in the published pictures, whose cubes have rounded edges."""

_EYE, _EYE_JITTER = (7.48, -6.5, 5.34), 0.5
# key, fill and back light
_LIGHTS, _LIGHT_JITTER = ((6.45, -2.91, 4.26), (-4.67, -4.01, 3.01), (-1.17, 2.65, 5.82)), 1.0
_CANDIDATES = 24


class Layout(NamedTuple):
    """B scenes of up to 10 objects; absent objects come last."""

    present: npt.NDArray[np.bool_]
    """Which of the objects are present, `(B, 10)`."""
    shape: npt.NDArray[np.int64]
    """Indices into `SHAPES`, `(B, 10)`."""
    size: npt.NDArray[np.int64]
    """Indices into `SIZES`, `(B, 10)`."""
    material: npt.NDArray[np.int64]
    """Indices into `MATERIALS`, `(B, 10)`."""
    colour: npt.NDArray[np.int64]
    """Indices into `COLOURS`, `(B, 10)`."""
    turn: npt.NDArray[np.float64]
    """Cosine and sine of the rotation about the vertical, `(B, 10, 2)`."""
    position: npt.NDArray[np.float64]
    """Centres `(B, 10, 3)`: x, y, z in scene units; the floor is z = 0."""
    eye: npt.NDArray[np.float64]
    """Places of the cameras `(B, 3)`, which look at the origin."""
    lights: npt.NDArray[np.float64]
    """Places of key, fill and back light, `(B, 3, 3)`."""

    def take(self, scenes: npt.NDArray[np.int64]) -> Layout:
        """Return some of the scenes."""
        fields: list[Any] = [field[scenes] for field in self]
        return Layout(*fields)


def sample_layouts(
    indices: npt.NDArray[np.int64], seed: int, counts: tuple[int, int], trial: int
) -> tuple[Layout, npt.NDArray[np.bool_]]:
    """Sample scenes; camera, lights and numbers of objects are the same at each trial, the objects are not.

    Args:
        indices: Numbers of the scenes, `(B,)`.
        seed: Seed of the dataset.
        counts: Least and largest number of objects.
        trial: Number of the trial, at least 0.

    Returns:
        The scenes, and in which of them all objects found a place `(B,)`.

    Example:
        >>> layout, placed = sample_layouts(np.arange(4), seed=0, counts=(3, 3), trial=0)
        >>> layout.present.sum(1).tolist()
        [3, 3, 3, 3]
    """
    number = counts[0] + integers(uniform(indices, 1, seed=seed)[:, 0], counts[1] - counts[0] + 1)
    jitter = 2 * uniform(indices, 12, seed=seed, stream=1) - 1
    eye = np.array(_EYE) + _EYE_JITTER * jitter[:, :3]
    lights = np.array(_LIGHTS) + _LIGHT_JITTER * jitter[:, 3:].reshape(-1, 3, 3)
    draws = uniform(indices, MAX_OBJECTS * (5 + 2 * _CANDIDATES), seed=seed, stream=3 + trial)
    draws = draws.reshape(len(indices), MAX_OBJECTS, 5 + 2 * _CANDIDATES)
    kinds = [integers(draws[..., i], high) for i, high in enumerate((len(SHAPES), 2, 2, len(COLOURS)))]
    angle = 2 * math.pi * draws[..., 4]
    # rounded, so that no difference between two mathematical libraries can move a pixel
    turn = np.round(np.stack([np.cos(angle), np.sin(angle)], axis=-1) * 2**16) / 2**16
    present = np.arange(MAX_OBJECTS) < number[:, None]
    candidates = REACH * (2 * draws[..., 5:].reshape(len(indices), MAX_OBJECTS, _CANDIDATES, 2) - 1)
    size = np.array(SIZES)[kinds[1]]
    place, placed = _place(candidates, size, present, look_at_origin(eye))
    position = np.concatenate([place, size[..., None]], axis=-1)
    layout = Layout(present, kinds[0], kinds[1], kinds[2], kinds[3], turn, position, eye, lights)
    return layout, placed


def _place(
    candidates: npt.NDArray[np.float64], size: npt.NDArray[np.float64], present: npt.NDArray[np.bool_], camera: Camera
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Place one object after the other at the first of its candidates `(B, 10, C, 2)` that keeps its distance.

    Returns:
        Places `(B, 10, 2)`, and in which scenes all objects keep their distance `(B,)`.
    """
    place: npt.NDArray[np.float64] = candidates[:, :, 0].copy()
    placed = np.ones(len(place), dtype=bool)
    for number in range(MAX_OBJECTS):
        scenes = np.flatnonzero(present[:, number] & placed)
        here, eyes = candidates[scenes, number], Camera(*(axis[scenes] for axis in camera))
        height = np.broadcast_to(size[scenes, number, None, None], (*here.shape[:2], 1))
        seen = project(eyes, np.concatenate([here, height], axis=-1))
        good = ((seen >= 0) & (seen <= 1)).all(-1)
        offset = here[:, :, None] - place[scenes, None, :number]
        x, y = offset[..., 0], offset[..., 1]
        least = DISTANCE + size[scenes, None, :number] + size[scenes, number, None, None]
        good &= (x * x + y * y >= least * least).all(-1)
        for axis in (eyes.right, eyes.forward):
            length = np.sqrt(axis[:, 0] * axis[:, 0] + axis[:, 1] * axis[:, 1])[:, None, None]
            along = x * axis[:, 0, None, None] + y * axis[:, 1, None, None]
            good &= (np.abs(along) >= MARGIN * length).all(-1)
        placed[scenes] = good.any(1)
        place[scenes, number] = here[np.arange(len(scenes)), good.argmax(1)]
    return place, placed


def set_out(layout: Layout) -> Layout:
    """Make the objects small and set them out in rows, so that each can be seen whatever the camera.

    Args:
        layout: Scenes of any objects.

    Returns:
        The same objects in other places.
    """
    camera = look_at_origin(layout.eye)
    rows = np.array([[right, front] for front in (2.4, 0.6, -1.2) for right in (-1.6, -0.55, 0.55, 1.6)])[:MAX_OBJECTS]
    place = np.zeros((*layout.size.shape, 2))
    for axis, direction in enumerate((camera.right[:, :2], -camera.forward[:, :2])):
        length = np.sqrt(direction[:, :1] * direction[:, :1] + direction[:, 1:] * direction[:, 1:])
        place += rows[:, axis, None] * (direction / length)[:, None]
    size = np.zeros_like(layout.size)
    height = np.full((*size.shape, 1), SIZES[0])
    return layout._replace(size=size, position=np.concatenate([place, height], axis=-1))


def set_prediction_targets(layout: Layout) -> npt.NDArray[np.float32]:
    """Describe the objects as the targets of set prediction.

    Args:
        layout: B scenes.

    Returns:
        `(B, 10, 19)`: x, y, z moved from [-3, 3] to [0, 1]; one-hot size (2, large first), material (2), shape (3) and
        colour (8), in the order of `clevr_objects.ATTRIBUTES`; 1 for an object. Rows of absent objects are 0.

    Example:
        >>> layout, _ = sample_layouts(np.arange(2), seed=0, counts=(4, 4), trial=0)
        >>> set_prediction_targets(layout)[..., -1].sum(1).tolist()
        [4.0, 4.0]
    """
    large_first = len(SIZES) - 1 - layout.size
    one_hot = [
        np.eye(high)[field]
        for field, high in ((large_first, 2), (layout.material, 2), (layout.shape, 3), (layout.colour, len(COLOURS)))
    ]
    position = (layout.position + REACH) / (2 * REACH)
    targets = np.concatenate([position, *one_hot, np.ones((*layout.size.shape, 1))], axis=-1)
    return np.asarray(np.where(layout.present[..., None], targets, 0), dtype=np.float32)
