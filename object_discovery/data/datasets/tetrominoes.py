"""Tetrominoes: three coloured blocks on black, 35 x 35 pixels, generated or read from a file."""

from __future__ import annotations

from functools import partial
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from object_discovery.data.datamodule import SceneDataModule
from object_discovery.data.dataset import SceneGenerator
from object_discovery.data.raycast.random_numbers import integers, uniform
from object_discovery.data.splits import PublishedSplit
from object_discovery.recommended import RECOMMENDED

SIZE = 35
"""Height and width of a scene in pixels."""
CELL = 5
"""Side of one of the four cells of a tetromino in pixels."""
COLOURS = {
    "red": (255, 0, 0),
    "green": (0, 255, 0),
    "blue": (0, 0, 255),
    "yellow": (255, 255, 0),
    "magenta": (255, 0, 255),
    "cyan": (0, 255, 255),
}
"""The colours of the blocks, RGB."""

_PIECES = ("1111", "11/11", "111/010", "011/110", "110/011", "100/111", "001/111")
_PIECES_IN_SCENE = 3
_ROUNDS = 64
_FALLBACK = CELL * np.array([[[0, 0], [0, 1], [1, 0], [1, 1]]]) + np.array([[[0, 0]], [[0, 25]], [[25, 0]]])


def _orientations() -> npt.NDArray[np.int64]:
    """List the cells (row, column) of the seven pieces in every distinct rotation, `(19, 4, 2)`."""
    orientations: dict[tuple[tuple[int, ...], ...], None] = {}
    for piece in _PIECES:
        grid = np.array([[int(cell) for cell in row] for row in piece.split("/")])
        for turns in range(4):
            cells = np.argwhere(np.rot90(grid, turns))
            orientations[tuple(map(tuple, cells.tolist()))] = None
    return np.array(list(orientations))


ORIENTATIONS = _orientations()
"""Cells (row, column) of the 19 fixed tetrominoes, `(19, 4, 2)`: the seven pieces in each distinct rotation."""


def _overlapping(cells: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Return in which scenes two pieces overlap; `cells` `(B, 3, 4, 2)` are the corners of the cells in pixels."""
    overlap = np.zeros(len(cells), dtype=bool)
    for a, b in ((0, 1), (0, 2), (1, 2)):
        distance = np.abs(cells[:, a, :, None] - cells[:, b, None, :])
        overlap |= (distance < CELL).all(-1).any((-1, -2))
    return overlap


def _sample_cells(indices: npt.NDArray[np.int64], seed: int, rounds: int = _ROUNDS) -> npt.NDArray[np.int64]:
    """Sample pieces and positions without overlap: corners of the cells in pixels, `(B, 3, 4, 2)`.

    By rejection sampling; after `rounds` trials (about one scene in 10^12) three squares are placed in three corners.
    """
    cells: npt.NDArray[np.int64] = np.repeat(_FALLBACK[None], len(indices), axis=0)
    todo = np.arange(len(indices))
    extent = CELL * (ORIENTATIONS.max(1) + 1)
    for trial in range(rounds):
        numbers = uniform(indices[todo], 3 * _PIECES_IN_SCENE, seed=seed, stream=1 + trial)
        numbers = numbers.reshape(-1, _PIECES_IN_SCENE, 3)
        pieces = integers(numbers[..., 0], len(ORIENTATIONS))
        corners = integers(numbers[..., 1:], SIZE + 1 - extent[pieces])
        trial_cells = corners[:, :, None] + CELL * ORIENTATIONS[pieces]
        overlap = _overlapping(trial_cells)
        cells[todo[~overlap]] = trial_cells[~overlap]
        todo = todo[overlap]
        if not len(todo):
            break
    return cells


def generate_tetrominoes(indices: npt.ArrayLike, seed: int = 0) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Generate scenes of three tetrominoes on black.

    The pieces come in all 19 fixed orientations (the published set has 17), each in one of six colours, at any
    pixel where they lie inside the frame and do not overlap.

    Args:
        indices: Indices of the scenes, `(B,)`, at least 0.
        seed: Seed of the dataset, at least 0.

    Returns:
        Images `(B, 35, 35, 3)` and label maps `(B, 35, 35)` (0 the background, 1 to 3 the pieces), both uint8.

    Example:
        >>> images, masks = generate_tetrominoes([0, 1])
        >>> images.shape, masks.shape, int(masks.max())
        ((2, 35, 35, 3), (2, 35, 35), 3)
    """
    scenes = np.asarray(indices, dtype=np.int64)
    cells = _sample_cells(scenes, seed)
    block = np.arange(CELL)
    rows = cells[..., 0, None, None] + block[:, None]
    columns = cells[..., 1, None, None] + block
    masks = np.zeros((len(scenes), SIZE, SIZE), dtype=np.uint8)
    labels = np.arange(1, 1 + _PIECES_IN_SCENE, dtype=np.uint8)[:, None, None, None]
    masks[np.arange(len(scenes))[:, None, None, None, None], rows, columns] = labels
    colours = integers(uniform(scenes, _PIECES_IN_SCENE, seed=seed), len(COLOURS))
    palette = np.zeros((len(scenes), 1 + _PIECES_IN_SCENE, 3), dtype=np.uint8)
    palette[:, 1:] = np.array(list(COLOURS.values()), dtype=np.uint8)[colours]
    return palette[np.arange(len(scenes))[:, None, None], masks], masks


class TetrominoesDataModule(SceneDataModule):
    """Tetrominoes: three coloured blocks on black (see `SceneDataModule` for files, splits and filters).

    Without `data_root` scenes are generated, see `generate_tetrominoes`. A file in the published order is split as in
    the experiments: the first 60,000 scenes for training, the next 320 for testing, the rest for validation.

    Example:
        >>> data = TetrominoesDataModule(batch_size=8, num_workers=0)
        >>> data.setup("fit")
        >>> batch = next(iter(data.train_dataloader()))
        >>> batch["image"].shape, batch["mask"].shape
        (torch.Size([8, 3, 35, 35]), torch.Size([8, 35, 35]))

    Reference:
        Kabra et al., Multi-Object Datasets, 2019, github.com/deepmind/multi_object_datasets.
    """

    name = "tetrominoes"
    recommended = RECOMMENDED["tetrominoes"]
    published: ClassVar[PublishedSplit] = PublishedSplit(train=60_000, test=320)

    @classmethod
    def _scene_generator(
        cls, seed: int, variant: str | None, counts: tuple[int, int], resolution: int
    ) -> SceneGenerator | None:
        fits = counts[0] <= _PIECES_IN_SCENE <= counts[1]
        return partial(generate_tetrominoes, seed=seed) if fits else None
