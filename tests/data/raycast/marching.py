"""Sphere tracing of signed distance functions in float64, the oracle of the ray caster."""

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def signed_distance(shape: int, size: float, points: Array) -> Array:
    """Compute the signed distance of points `(N, 3)` to a cube (0), sphere (1) or cylinder (2) at the origin."""
    if shape == 1:
        return np.asarray(np.linalg.norm(points, axis=1) - size)
    outer = (
        np.abs(points) - size
        if shape == 0
        else np.stack([np.linalg.norm(points[:, :2], axis=1) - size, np.abs(points[:, 2]) - size], axis=1)
    )
    return np.asarray(np.linalg.norm(np.maximum(outer, 0), axis=1) + np.minimum(outer.max(1), 0))


def march(shape: int, size: float, origin: Array, direction: Array, steps: int = 400) -> tuple[Array, Array]:
    """March along rays `(N, 3)`; return the ray parameters at entry, and the closest distances to the object."""
    length = np.linalg.norm(direction, axis=1)
    t, closest = np.zeros(len(direction)), np.full(len(direction), np.inf)
    for _ in range(steps):
        distance = signed_distance(shape, size, origin + t[:, None] * direction)
        closest = np.minimum(closest, distance)
        t += np.maximum(distance, 0) / length
    return t, closest
