"""Palette of label maps: distinct colours, farthest-point sampled in OKLab."""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from object_discovery.discovery import IGNORED

MASK_ALPHA = 0.6
"""Opacity of masks that are laid over an image, in every picture of the library."""
_BACKGROUND = 40
_LIGHTNESS = (0.5, 0.95)


def palette(n: int) -> npt.NDArray[np.uint8]:
    """Return distinct colours: each is as far as possible in OKLab from those before it, and from black and white.

    Args:
        n: Number of colours, 1 to 256. A shorter palette is the beginning of a longer one.

    Returns:
        RGB colours `(n, 3)`; the first is the dark grey of backgrounds.

    Raises:
        ValueError: If `n` is not from 1 to 256.

    Example:
        >>> palette(2).shape, palette(2)[0].tolist()
        ((2, 3), [40, 40, 40])
    """
    if not 1 <= n <= 256:
        raise ValueError(f"Expected argument `n` to be from 1 to 256, but got {n}")
    colours: npt.NDArray[np.uint8] = _distinct_colours()[:n].copy()
    return colours


def colour_labels(labels: Tensor) -> Tensor:
    """Colour label maps by the palette.

    Args:
        labels: Label maps, `(..., H, W)`, integers from 0 to 255: 0 is the background, 255 is ignored.

    Returns:
        RGB images `(..., 3, H, W)`, uint8, on the CPU: dark grey for the background, white for ignored pixels.

    Example:
        >>> colour_labels(torch.tensor([[0, 255]]))[0].tolist()
        [[40, 255]]
    """
    colours = torch.from_numpy(np.concatenate([palette(IGNORED), np.full((1, 3), 255, np.uint8)]))
    return colours[labels.cpu().long()].movedim(-1, -3)


@cache
def _distinct_colours() -> npt.NDArray[np.uint8]:
    """Choose 256 colours by farthest-point sampling in OKLab."""
    steps = np.linspace(0, 255, 9).round()
    candidates = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(-1, 3)
    lightness = _oklab(candidates)[:, 0]
    candidates = candidates[(lightness > _LIGHTNESS[0]) & (lightness < _LIGHTNESS[1])]
    points = _oklab(candidates)
    chosen = [np.full(3, float(_BACKGROUND))]
    distance = np.full(len(points), np.inf)  # to the nearest colour chosen or reserved
    for reserved in (np.zeros(3), np.full(3, 128.0), np.full(3, 255.0)):  # black, grey and white
        distance = np.minimum(distance, np.linalg.norm(points - _oklab(reserved), axis=1))
    while len(chosen) < 256:
        distance = np.minimum(distance, np.linalg.norm(points - _oklab(chosen[-1]), axis=1))
        chosen.append(candidates[distance.argmax()])
    return np.stack(chosen).astype(np.uint8)


def _oklab(colours: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Convert sRGB colours `(..., 3)`, from 0 to 255, to OKLab, a perceptually uniform colour space.

    Reference:
        Ottosson, A Perceptual Color Space for Image Processing, 2020.
    """
    rgb = colours / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    to_cones = np.array(
        [
            [0.4122214708, 0.5363325363, 0.0514459929],
            [0.2119034982, 0.6806995451, 0.1073969566],
            [0.0883024619, 0.2817188376, 0.6299787005],
        ]
    )
    to_lab = np.array(
        [
            [0.2104542553, 0.7936177850, -0.0040720468],
            [1.9779984951, -2.4285922050, 0.4505937099],
            [0.0259040371, 0.7827717662, -0.8086757660],
        ]
    )
    return np.asarray(np.cbrt(linear @ to_cones.T) @ to_lab.T)
