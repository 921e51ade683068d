"""Encoding of the objects of CLEVR as targets of set prediction.

An object is a row of 19 numbers in [0, 1]:

| columns | property                                                               |
|---------|------------------------------------------------------------------------|
| 0-2     | x, y and z, scaled from [-3, 3]                                        |
| 3-4     | size, one-hot: large, small                                            |
| 5-6     | material, one-hot: rubber, metal                                       |
| 7-9     | shape, one-hot: cube, sphere, cylinder                                 |
| 10-17   | colour, one-hot: gray, red, blue, green, brown, purple, cyan, yellow   |
| 18      | presence: 1 for an object; padding rows are all 0                      |
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "size": ("large", "small"),
    "material": ("rubber", "metal"),
    "shape": ("cube", "sphere", "cylinder"),
    "color": ("gray", "red", "blue", "green", "brown", "purple", "cyan", "yellow"),
}
"""Attributes and their values in the order of the columns."""
MAX_OBJECTS = 10
"""Maximum number of objects in a scene of CLEVR."""
NUM_COLUMNS = 3 + sum(map(len, ATTRIBUTES.values())) + 1
"""Columns of an object: 19."""
_MAX_COORDINATE = 3.0  # coordinates are in [-3, 3]


def attribute_codes(attributes: Mapping[str, object]) -> list[int]:
    """Convert the attributes of an object to indices.

    Args:
        attributes: Values by attribute; other keys are ignored.

    Returns:
        Indices of the values in `ATTRIBUTES`: size, material, shape, color.

    Raises:
        ValueError: If an attribute is missing or has an unknown value.

    Example:
        >>> attribute_codes({"shape": "cylinder", "size": "large", "color": "red", "material": "metal"})
        [0, 1, 2, 1]
    """
    codes = []
    for attribute, values in ATTRIBUTES.items():
        value = attributes.get(attribute)
        if value not in values:
            raise ValueError(
                f"Expected the {attribute} of an object to be one of {', '.join(values)}, but got {value!r}"
            )
        codes.append(values.index(str(value)))
    return codes


def encode_objects(coords: ArrayLike, codes: ArrayLike, max_objects: int = MAX_OBJECTS) -> NDArray[np.float32]:
    """Encode the objects of a scene, see the table above.

    Args:
        coords: Coordinates x, y and z of n objects, in [-3, 3], `(n, 3)`.
        codes: Attributes, see `attribute_codes`, `(n, 4)`.
        max_objects: Number O of rows, at least n.

    Returns:
        Targets, float32 `(O, 19)`: the objects in the given order, then padding.

    Raises:
        ValueError: If there are more objects than rows, or a code is out of range.

    Example:
        >>> encode_objects([[0.0, 3.0, -3.0]], [[0, 1, 2, 1]], max_objects=2).tolist()
        [[0.5, 1.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0],
         [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]]
    """
    coords = np.asarray(coords, np.float32).reshape(-1, 3)
    codes = np.asarray(codes, np.int64).reshape(-1, len(ATTRIBUTES))
    sizes = np.array([len(values) for values in ATTRIBUTES.values()])
    number = len(coords)
    if number != len(codes) or ((codes < 0) | (codes >= sizes)).any():
        raise ValueError(
            f"Expected argument `codes` to be {number} x 4 indices into ATTRIBUTES, but got {codes.tolist()}"
        )
    if number > max_objects:
        raise ValueError(f"Expected argument `coords` to have at most {max_objects} objects, but got {number}")
    rows = np.zeros((max_objects, NUM_COLUMNS), np.float32)
    rows[:number, :3] = (coords + _MAX_COORDINATE) / (2 * _MAX_COORDINATE)
    starts = 3 + np.cumsum(sizes) - sizes
    rows[np.arange(number)[:, None], starts + codes] = 1
    rows[:number, -1] = 1
    return rows
