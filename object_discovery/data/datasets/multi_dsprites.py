"""Multi-dSprites: ovals, hearts and squares that occlude each other, 64 x 64 pixels, generated or read from a file."""

from __future__ import annotations

import math
from functools import partial
from typing import ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from object_discovery.data.datamodule import SceneDataModule
from object_discovery.data.dataset import Arrays, SceneGenerator
from object_discovery.data.raycast.random_numbers import integers, uniform
from object_discovery.data.splits import PublishedSplit
from object_discovery.recommended import RECOMMENDED

SIZE = 64
"""Height and width of a scene in pixels."""


class Variant(NamedTuple):
    """Number of objects and colours of a variant."""

    least: int
    most: int
    background: str
    """black, gray (one level for the whole scene) or colour."""
    sprites: str
    """white or colour."""


VARIANTS = {
    "colored_on_grayscale": Variant(2, 5, background="gray", sprites="colour"),
    "colored_on_colored": Variant(1, 4, background="colour", sprites="colour"),
    "binarized": Variant(2, 3, background="black", sprites="white"),
}
"""The three published variants; the first is the one of the Slot Attention experiments."""

SHAPES = ("oval", "heart", "square")
"""The shapes of the sprites."""

_WINDOW = 32  # pixels; a sprite of the largest size fits in it, whatever its orientation
_HALF = np.float32(10.5)  # half the size of a sprite of scale 1 in pixels
_RADIUS = 15.5  # largest distance of a pixel from the centre of a sprite of scale 1
_TURNS = 40
_ANGLES = [2 * math.pi * turn / _TURNS for turn in range(_TURNS)]
# rounded, so that scenes do not depend on the math library
_ROTATIONS = np.round(np.array([[math.cos(a), math.sin(a)] for a in _ANGLES]) * 2**16).astype(np.float32) / 2**16
_ROUNDS = 16
_FALLBACK = np.array([[16, 16], [16, 48], [48, 16], [48, 48], [32, 32]], dtype=np.float32)


def _inside(shape: str, x: npt.NDArray[np.float32], y: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """Return which points are inside a shape, in units of half the size of the sprite, y upwards."""
    if shape == "square":
        return (np.abs(x) <= 1) & (np.abs(y) <= 1)
    xx, yy = x * x, y * y
    if shape == "oval":
        return 0.6 * xx + 1.6 * yy <= 1
    circle = xx + yy - 1
    return np.asarray(circle * circle * circle <= xx * yy * y)


def _sprites(
    shapes: npt.NDArray[np.int64],
    turns: npt.NDArray[np.int64],
    scales: npt.NDArray[np.float32],
    offsets: npt.NDArray[np.float32],
) -> npt.NDArray[np.bool_]:
    """Rasterise each sprite `(P,)` in its own window, `(P, 32, 32)`; `offsets` are the centres (row, column)."""
    pixels = np.arange(_WINDOW, dtype=np.float32) + np.float32(0.5)
    inside = np.empty((len(shapes), _WINDOW, _WINDOW), dtype=bool)
    for number, shape in enumerate(SHAPES):
        chosen = np.flatnonzero(shapes == number)
        unit = (scales[chosen] * _HALF)[:, None]
        up = ((offsets[chosen, :1] - pixels) / unit)[:, :, None]
        right = ((pixels - offsets[chosen, 1:]) / unit)[:, None, :]
        cos, sin = _ROTATIONS[turns[chosen]].T[..., None, None]
        inside[chosen] = _inside(shape, cos * right + sin * up, cos * up - sin * right)
    return inside


def _compose(centres: npt.NDArray[np.float32], inside: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
    """Compose sprites `(B, n, 32, 32)` back to front to label maps `(B, 64, 64)`."""
    masks = np.zeros((len(inside), SIZE, SIZE), dtype=np.uint8)
    windows = np.lib.stride_tricks.sliding_window_view(masks, (_WINDOW, _WINDOW), axis=(1, 2), writeable=True)
    for sprite in range(inside.shape[1]):
        top, left = _corner(centres[:, sprite]).T
        index = (np.arange(len(masks)), top, left)
        windows[index] = np.where(inside[:, sprite], np.uint8(1 + sprite), windows[index])
    return masks


def _corner(centres: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """Return the top left corners of the windows of sprites, shifted into the frame."""
    corners = np.floor(centres + np.float32(0.5)).astype(np.int64) - _WINDOW // 2
    return np.asarray(np.clip(corners, 0, SIZE - _WINDOW))


def _sample_masks(
    scenes: npt.NDArray[np.int64], counts: npt.NDArray[np.int64], seed: int, rounds: int = _ROUNDS
) -> npt.NDArray[np.uint8]:
    """Sample sprites such that none is hidden, and return the label maps `(B, 64, 64)`.

    Scenes with a hidden sprite are sampled again (rejection sampling). After `rounds` trials the sprites are placed in
    the corners and the centre, where they do not overlap.
    """
    masks = np.empty((len(scenes), SIZE, SIZE), dtype=np.uint8)
    todo = np.arange(len(scenes))
    sprites = np.arange(1, 1 + max(counts.tolist(), default=0))
    for trial in range(1 + rounds):
        numbers = uniform(scenes[todo], 5 * len(_FALLBACK), seed=seed, stream=2 + trial)
        numbers = numbers.reshape(len(todo), len(_FALLBACK), 5)[:, : len(sprites)]
        shapes, turns = integers(numbers[..., 0], len(SHAPES)), integers(numbers[..., 1], _TURNS)
        scales = (0.5 + 0.5 * numbers[..., 2]).astype(np.float32)
        margin = _RADIUS * scales[..., None]
        centres = (margin + (SIZE - 2 * margin) * numbers[..., 3:]).astype(np.float32)
        if trial == rounds:
            centres[:] = _FALLBACK[: len(sprites)]
        offsets = centres - _corner(centres).astype(np.float32)
        inside = _sprites(shapes.ravel(), turns.ravel(), scales.ravel(), offsets.reshape(-1, 2))
        is_used = sprites <= counts[todo, None]
        labels = _compose(centres, inside.reshape(*shapes.shape, _WINDOW, _WINDOW) & is_used[..., None, None])
        masks[todo] = labels
        todo = todo[(is_used & ~_visible(labels, len(sprites))).any(1)]
        if not len(todo):
            break
    return masks


def _visible(masks: npt.NDArray[np.uint8], num_labels: int) -> npt.NDArray[np.bool_]:
    """Return which of the labels 1 to `num_labels` each map contains, `(B, num_labels)`."""
    return np.stack([(masks == label).any((1, 2)) for label in range(1, 1 + num_labels)], axis=1)


def generate_multi_dsprites(
    indices: npt.ArrayLike,
    seed: int = 0,
    variant: str = "colored_on_grayscale",
    counts: tuple[int, int] | None = None,
) -> Arrays:
    """Generate scenes of ovals, hearts and squares, later ones in front.

    Sprites are not antialiased, are inside the frame, and each has at least one visible pixel. Shape, position,
    scale (0.5 to 1, the largest about 21 pixels across), orientation (40 steps), colours and the number of objects
    are uniform. Published numbers of objects: `binarized` 2 or 3 (white on black), `colored_on_grayscale` 2 to 5,
    `colored_on_colored` 1 to 4.

    Args:
        indices: Indices of the scenes, `(B,)`, at least 0.
        seed: Seed of the dataset, at least 0.
        variant: A key of `VARIANTS`.
        counts: Least and largest number of objects, 1 to 5. None: those of the variant.

    Returns:
        Images `(B, 64, 64, 3)` and label maps `(B, 64, 64)` (0 the background, 1 to n the sprites from back to front),
        both uint8.

    Example:
        >>> images, masks = generate_multi_dsprites([0, 1, 2], counts=(3, 3))
        >>> images.shape, np.unique(masks[0]).tolist()
        ((3, 64, 64, 3), [0, 1, 2, 3])
    """
    scenes = np.asarray(indices, dtype=np.int64)
    style = VARIANTS[variant]
    least, most = counts or (style.least, style.most)
    number = least + integers(uniform(scenes, 1, seed=seed)[:, 0], most - least + 1)
    masks = _sample_masks(scenes, number, seed)
    palette = integers(uniform(scenes, 3 * (1 + len(_FALLBACK)), seed=seed, stream=1), 256).astype(np.uint8)
    palette = palette.reshape(len(scenes), 1 + len(_FALLBACK), 3)
    if style.background != "colour":
        palette[:, 0] = palette[:, 0, :1] if style.background == "gray" else 0
    if style.sprites == "white":
        palette[:, 1:] = 255
    return palette[np.arange(len(scenes))[:, None, None], masks], masks


class MultiDSpritesDataModule(SceneDataModule):
    """Multi-dSprites: ovals, hearts and squares (see `SceneDataModule` for files, splits and filters).

    The variants are `colored_on_grayscale` (the default), `colored_on_colored` and `binarized`. Without
    `data_root` scenes are generated, see `generate_multi_dsprites`, with numbers of objects within the filters. A file
    in the published order is split as in the experiments: the first 60,000 scenes for training, the next 320 for
    testing, the rest for validation.

    Example:
        >>> data = MultiDSpritesDataModule(variant="binarized", batch_size=8, num_workers=0)
        >>> data.setup("fit")
        >>> next(iter(data.train_dataloader()))["image"].shape
        torch.Size([8, 3, 64, 64])

    Reference:
        Kabra et al., Multi-Object Datasets, 2019, github.com/deepmind/multi_object_datasets.
    """

    name = "multi_dsprites"
    recommended = RECOMMENDED["multi_dsprites"]
    published: ClassVar[PublishedSplit] = PublishedSplit(train=60_000, test=320)
    variants: ClassVar[tuple[str, ...]] = tuple(VARIANTS)

    @classmethod
    def _scene_generator(
        cls, seed: int, variant: str | None, counts: tuple[int, int], resolution: int
    ) -> SceneGenerator | None:
        assert variant is not None
        least, most = max(counts[0], VARIANTS[variant].least), min(counts[1], VARIANTS[variant].most)
        if least > most:
            return None
        return partial(generate_multi_dsprites, seed=seed, variant=variant, counts=(least, most))
