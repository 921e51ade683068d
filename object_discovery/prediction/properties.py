"""Predicted properties of the objects of a CLEVR scene: as a list, a table and a floor plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from rich.table import Table
from torch import Tensor

from object_discovery.data.object_encoding import ATTRIBUTES, NUM_COLUMNS
from object_discovery.data.raycast.layout import COLOURS

_EXTENT = 3.0  # x and y are in [-3, 3]
_RADIUS = {"large": 0.7, "small": 0.35}
_MARGIN = 1.6  # room for the floor, which is rotated by 45 degrees, and for objects at its corners


@dataclass
class PredictedObject:
    """An object that set prediction has predicted."""

    slot: int
    """Index of its slot."""
    shape: str
    """cube, sphere or cylinder."""
    color: str
    """One of CLEVR's eight colours."""
    material: str
    """rubber or metal."""
    size: str
    """large or small."""
    x: float
    """Position on the floor in CLEVR's units, in [-3, 3]."""
    y: float
    """Position on the floor in CLEVR's units, in [-3, 3]."""
    z: float
    """Height of its centre in CLEVR's units."""
    confidence: float
    """Predicted probability that it exists, in [0, 1]."""


def predicted_objects(rows: Tensor, confidence: float = 0.5) -> list[PredictedObject]:
    """Decode predicted property vectors.

    Args:
        rows: Output of `SetPrediction.properties` for one image, `(K, 19)`.
        confidence: Least confidence of an object, in [0, 1].

    Returns:
        The objects, in descending order of confidence.

    Raises:
        ValueError: If the rows are of another shape.

    Example:
        >>> rows = torch.full((2, 19), 0.5)
        >>> rows[1, [3, 6, 8, 16, 18]] = 0.9
        >>> predicted_objects(rows, 0.8)[0].shape, predicted_objects(rows, 0.8)[0].color
        ('sphere', 'cyan')
    """
    if rows.ndim != 2 or rows.shape[1] != NUM_COLUMNS:
        raise ValueError(f"Expected argument `rows` to be (K, {NUM_COLUMNS}), but got {tuple(rows.shape)}")
    rows = rows.detach().float().cpu()
    positions = ((rows[:, :3] * 2 - 1) * _EXTENT).tolist()
    attributes: dict[str, list[str]] = {}
    start = 3
    for name, values in ATTRIBUTES.items():
        indices = rows[:, start : start + len(values)].argmax(1).tolist()
        attributes[name] = [values[index] for index in indices]
        start += len(values)
    objects = []
    for slot in rows[:, -1].argsort(descending=True, stable=True).tolist():
        score = float(rows[slot, -1])
        if score >= confidence:
            shape, color, material, size = (attributes[name][slot] for name in ("shape", "color", "material", "size"))
            x, y, z = (round(coordinate, 2) for coordinate in positions[slot])
            objects.append(PredictedObject(slot, shape, color, material, size, x, y, z, round(score, 4)))
    return objects


def objects_table(objects: Sequence[PredictedObject], title: str | None = None) -> Table:
    """Lay out objects as a table with a row for each.

    Args:
        objects: The objects, see `predicted_objects`.
        title: Title of the table.

    Example:
        >>> objects_table([PredictedObject(0, "cube", "red", "metal", "large", 0.0, 1.0, 0.7, 0.99)]).row_count
        1
    """
    table = Table("slot", "shape", "colour", "material", "size", title=title, title_justify="left")
    for name in ("x", "y", "z", "confidence"):
        table.add_column(name, justify="right")
    for item in objects:
        numbers = (f"{value:.2f}" for value in (item.x, item.y, item.z, item.confidence))
        table.add_row(str(item.slot), item.shape, item.color, item.material, item.size, *numbers)
    return table


def floor_plan(objects: Sequence[PredictedObject], size: int = 320) -> Tensor:
    """Plot the positions of objects on the floor, seen from above, with CLEVR's camera at the bottom.

    Cubes are squares, spheres discs, cylinders discs with a ring; metal has a thick white outline; the number is that
    of the slot. The square is the part of the floor with x and y in [-3, 3].

    Args:
        objects: The objects, see `predicted_objects`.
        size: Height and width in pixels.

    Returns:
        The picture `(3, size, size)`, uint8.
    """
    image = Image.new("RGB", (size, size), "white")
    draw = ImageDraw.Draw(image)
    unit = size / (2 * _MARGIN * _EXTENT)
    font = ImageFont.load_default(max(8, size // 28))
    corners = [(-_EXTENT, -_EXTENT), (_EXTENT, -_EXTENT), (_EXTENT, _EXTENT), (-_EXTENT, _EXTENT)]
    draw.polygon([_to_plan(x, y, size, unit) for x, y in corners], fill=(225, 225, 225), outline=(150, 150, 150))
    for item in sorted(objects, key=lambda item: item.confidence):
        column, row = _to_plan(item.x, item.y, size, unit)
        radius = _RADIUS[item.size] * unit
        box = (column - radius, row - radius, column + radius, row + radius)
        outline, width = ("white", max(2, size // 100)) if item.material == "metal" else ("black", 1)
        shape = draw.rectangle if item.shape == "cube" else draw.ellipse
        shape(box, fill=COLOURS[item.color], outline=outline, width=width)
        if item.shape == "cylinder":
            inner = 0.55 * radius
            draw.ellipse((column - inner, row - inner, column + inner, row + inner), outline="black")
        light = sum(COLOURS[item.color]) > 380
        draw.text((column, row), str(item.slot), fill="black" if light else "white", font=font, anchor="mm")
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def _to_plan(x: float, y: float, size: int, unit: float) -> tuple[float, float]:
    """Project a position to the plan; CLEVR's camera, at about (7, -7), is below its bottom edge."""
    right, away = (x + y) / 2**0.5, (y - x) / 2**0.5
    return size / 2 + right * unit, size / 2 - away * unit
