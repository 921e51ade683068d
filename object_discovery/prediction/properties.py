"""Tell what the objects of a scene are: a table, entries for JSON, and a plan of where they stand."""

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

_REACH = 3.0  # coordinates run from -3 to 3
_RADIUS = {"large": 0.7, "small": 0.35}
_MARGIN = 1.6  # the plan turned by 45 degrees, and the objects at its corners


@dataclass
class PredictedObject:
    """An object that set prediction has found."""

    slot: int
    """The slot that describes it."""
    shape: str
    """cube, sphere or cylinder."""
    color: str
    """One of CLEVR's eight colours."""
    material: str
    """rubber or metal."""
    size: str
    """large or small."""
    x: float
    """Place on the floor in CLEVR's units, from -3 to 3."""
    y: float
    """Place on the floor in CLEVR's units, from -3 to 3."""
    z: float
    """Height of its centre in CLEVR's units."""
    confidence: float
    """How sure it is that there is such an object, in [0, 1]."""


def predicted_objects(rows: Tensor, confidence: float = 0.5) -> list[PredictedObject]:
    """Read the objects off predicted rows.

    Args:
        rows: Rows of `SetPrediction.properties` for one image, `(K, 19)`.
        confidence: Least value of the last column.

    Returns:
        The objects, the surest first.

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
    places = ((rows[:, :3] * 2 - 1) * _REACH).tolist()
    kinds: dict[str, list[str]] = {}
    start = 3
    for name, values in ATTRIBUTES.items():
        best = rows[:, start : start + len(values)].argmax(1).tolist()
        kinds[name] = [values[index] for index in best]
        start += len(values)
    found = []
    for slot in rows[:, -1].argsort(descending=True, stable=True).tolist():
        sure = float(rows[slot, -1])
        if sure >= confidence:
            shape, color, material, size = (kinds[name][slot] for name in ("shape", "color", "material", "size"))
            x, y, z = (round(axis, 2) for axis in places[slot])
            found.append(PredictedObject(slot, shape, color, material, size, x, y, z, round(sure, 4)))
    return found


def objects_table(objects: Sequence[PredictedObject], title: str | None = None) -> Table:
    """Lay out objects as a table, a line each.

    Example:
        >>> objects_table([PredictedObject(0, "cube", "red", "metal", "large", 0.0, 1.0, 0.7, 0.99)]).row_count
        1
    """
    table = Table("slot", "shape", "colour", "material", "size", title=title, title_justify="left")
    for name in ("x", "y", "z", "confidence"):
        table.add_column(name, justify="right")
    for found in objects:
        numbers = (f"{value:.2f}" for value in (found.x, found.y, found.z, found.confidence))
        table.add_row(str(found.slot), found.shape, found.color, found.material, found.size, *numbers)
    return table


def plan(objects: Sequence[PredictedObject], size: int = 320) -> Tensor:
    """Draw where objects stand, seen from above, with CLEVR's camera at the bottom.

    Cubes are squares, spheres discs, cylinders discs with a ring; metal has a thick white outline; the number is the
    slot's. The square is the part of the floor with x and y from -3 to 3.

    Args:
        objects: What `predicted_objects` returns.
        size: Height and width in pixels.

    Returns:
        The picture `(3, size, size)`, uint8.
    """
    image = Image.new("RGB", (size, size), "white")
    draw = ImageDraw.Draw(image)
    unit = size / (2 * _MARGIN * _REACH)
    font = ImageFont.load_default(max(8, size // 28))
    corners = [(-_REACH, -_REACH), (_REACH, -_REACH), (_REACH, _REACH), (-_REACH, _REACH)]
    draw.polygon([_to_plan(x, y, size, unit) for x, y in corners], fill=(225, 225, 225), outline=(150, 150, 150))
    for found in sorted(objects, key=lambda found: found.confidence):
        column, row = _to_plan(found.x, found.y, size, unit)
        radius = _RADIUS[found.size] * unit
        box = (column - radius, row - radius, column + radius, row + radius)
        outline, width = ("white", max(2, size // 100)) if found.material == "metal" else ("black", 1)
        shape = draw.rectangle if found.shape == "cube" else draw.ellipse
        shape(box, fill=COLOURS[found.color], outline=outline, width=width)
        if found.shape == "cylinder":
            inner = 0.55 * radius
            draw.ellipse((column - inner, row - inner, column + inner, row + inner), outline="black")
        light = sum(COLOURS[found.color]) > 380
        draw.text((column, row), str(found.slot), fill="black" if light else "white", font=font, anchor="mm")
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def _to_plan(x: float, y: float, size: int, unit: float) -> tuple[float, float]:
    """Turn the floor such that CLEVR's camera, which stands at about (7, -7), looks up from the bottom."""
    right, away = (x + y) / 2**0.5, (y - x) / 2**0.5
    return size / 2 + right * unit, size / 2 - away * unit
