"""The objects of a CLEVR scene as rows of numbers, which set prediction has to find.

A row has 19 numbers, all in [0, 1]:

| columns | what                                                                   |
|---------|------------------------------------------------------------------------|
| 0-2     | x, y and z, scaled from [-3, 3]                                        |
| 3-4     | size, one-hot: large, small                                            |
| 5-6     | material: rubber, metal                                                |
| 7-9     | shape: cube, sphere, cylinder                                          |
| 10-17   | colour: gray, red, blue, green, brown, purple, cyan, yellow            |
| 18      | 1 for an object, 0 for the rows that fill up the set, which are all 0  |
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
"""The attributes and their values, in the order of the columns."""
MAX_OBJECTS = 10
"""The most objects in a scene of CLEVR."""
NUM_COLUMNS = 3 + sum(map(len, ATTRIBUTES.values())) + 1
"""Numbers in the row of an object: 19."""
_LARGEST = 3.0  # objects stand at x and y from -3 to 3


def attribute_codes(described: Mapping[str, object]) -> list[int]:
    """Number the attributes of an object.

    Args:
        described: The values of `ATTRIBUTES`, by their keys.

    Returns:
        The places of the values in `ATTRIBUTES`: size, material, shape, color.

    Raises:
        ValueError: If there is no such value, or an attribute is missing.

    Example:
        >>> attribute_codes({"shape": "cylinder", "size": "large", "color": "red", "material": "metal"})
        [0, 1, 2, 1]
    """
    codes = []
    for attribute, values in ATTRIBUTES.items():
        value = described.get(attribute)
        if value not in values:
            raise ValueError(
                f"Expected the {attribute} of an object to be one of {', '.join(values)}, but got {value!r}"
            )
        codes.append(values.index(str(value)))
    return codes


def encode_objects(coords: ArrayLike, codes: ArrayLike, max_objects: int = MAX_OBJECTS) -> NDArray[np.float32]:
    """Encode the objects of a scene as a set of rows, see the module.

    Args:
        coords: Where the n objects are, x, y and z in [-3, 3], `(n, 3)`.
        codes: Their attributes, as `attribute_codes` numbers them, `(n, 4)`.
        max_objects: Rows of the set, O, at least n.

    Returns:
        The set, `(O, 19)`: first the objects, in the order given.

    Raises:
        ValueError: If there are more objects than rows, or the shapes or the codes are wrong.

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
        raise ValueError(f"Expected argument `codes` to be {number} x 4 places in ATTRIBUTES, but got {codes.tolist()}")
    if number > max_objects:
        raise ValueError(f"Expected argument `coords` to hold at most {max_objects} objects, but got {number}")
    rows = np.zeros((max_objects, NUM_COLUMNS), np.float32)
    rows[:number, :3] = (coords + _LARGEST) / (2 * _LARGEST)
    starts = 3 + np.cumsum(sizes) - sizes
    rows[np.arange(number)[:, None], starts + codes] = 1
    rows[:number, -1] = 1
    return rows
