"""Layouts of given objects for tests."""

import numpy as np

from object_discovery.data.raycast.layout import MAX_OBJECTS, Layout


def make_room(*objects: tuple[str, int, float, float], metal: bool = False, colour: int = 0) -> Layout:
    """Return the layout of a scene without jitter; objects are shape, size (0 small, 1 large), x and y."""
    shapes = ("cube", "sphere", "cylinder")
    size, kind, position = (
        np.zeros((1, MAX_OBJECTS), int),
        np.zeros((1, MAX_OBJECTS), int),
        np.zeros((1, MAX_OBJECTS, 3)),
    )
    for number, (shape, large, x, y) in enumerate(objects):
        kind[0, number], size[0, number] = shapes.index(shape), large
        position[0, number] = x, y, (0.35, 0.7)[large]
    return Layout(
        present=np.arange(MAX_OBJECTS)[None] < len(objects),
        shape=kind,
        size=size,
        material=np.full((1, MAX_OBJECTS), int(metal)),
        colour=np.full((1, MAX_OBJECTS), colour),
        rotation=np.broadcast_to([0.8, 0.6], (1, MAX_OBJECTS, 2)).copy(),
        position=position,
        eye=np.array([[7.48, -6.5, 5.34]]),
        lights=np.array([[[6.45, -2.91, 4.26], [-4.67, -4.01, 3.01], [-1.17, 2.65, 5.82]]]),
    )
