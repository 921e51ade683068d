"""CLEVR as first published: 100,000 images without masks, and a description of the objects of most of them."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from object_discovery.data.datamodule import SceneDataModule
from object_discovery.data.geometry import Crop
from object_discovery.data.object_encoding import encode_objects
from object_discovery.data.readers.clevr_annotations import read_annotations
from object_discovery.data.readers.image_files import read_image
from object_discovery.data.readers.index import list_files
from object_discovery.data.readers.source import SceneSource
from object_discovery.data.splits import SPLITS, Split
from object_discovery.errors import CorruptFileError, DatasetNotFoundError, UserError
from object_discovery.recommended import RECOMMENDED

PUBLISHED_SIZES = {"train": 70_000, "val": 15_000, "test": 15_000}
"""Images in each split."""
_FRAME = (320, 480)  # height and width of the published images, in which `pixel_coords` are given


def central_crop(frame: tuple[int, ...]) -> Crop:
    """Return the central square that published experiments on CLEVR and ClevrTex look at.

    Args:
        frame: Height and width of the images in pixels.

    Returns:
        A square of 0.8 times the shorter side, which is 192 of 240 pixels, in the middle.

    Example:
        >>> central_crop((240, 320))
        (24, 64, 192, 192)
    """
    size = 4 * min(frame) // 5
    return (frame[0] - size) // 2, (frame[1] - size) // 2, size, size


def check_frame(path: Path, pixels: NDArray[np.uint8], frame: tuple[int, ...]) -> NDArray[np.uint8]:
    """Refuse a file of another size than the first scene's, which the crop depends on.

    Args:
        path: The file, for the message.
        pixels: Its colours `(H, W, 3)` or labels `(H, W)`.
        frame: Height and width of the first scene in pixels.

    Returns:
        `pixels`.

    Raises:
        CorruptFileError: If the sizes differ.

    Example:
        >>> check_frame(Path("a.png"), np.zeros((2, 3), np.uint8), (240, 320))
        Traceback (most recent call last):
        object_discovery.errors.CorruptFileError: a.png: expected 240 x 320 pixels as in the first scene, but got 2 x 3
    """
    if pixels.shape[:2] != frame:
        got, expected = (" x ".join(map(str, shape)) for shape in (pixels.shape[:2], frame))
        raise CorruptFileError(f"{path}: expected {expected} pixels as in the first scene, but got {got}")
    return pixels


class CLEVRSource(SceneSource):
    """The images of one split of CLEVR, and their objects where they are described.

    Args:
        root: The folder `CLEVR_v1.0`.
        split: train, val or test.

    Raises:
        CorruptFileError: If the descriptions are damaged, or an image has none.
        DatasetNotFoundError: If the folder of the split does not exist.

    Example:
        >>> CLEVRSource(Path("CLEVR_v1.0"), "train")
        Traceback (most recent call last):
        object_discovery.errors.DatasetNotFoundError: Cannot list CLEVR_v1.0/images/train: No such file or directory
    """

    layout = "PNG files"

    def __init__(self, root: Path, split: str) -> None:
        self.split = split
        self.folder = root / "images" / split
        names = list_files(self.folder, rf"CLEVR_{split}_\d{{6}}\.png")
        self.numbers = np.array([int(name[-10:-4]) for name in names], np.int64)
        path = root / "scenes" / f"CLEVR_{split}_scenes.json"
        self.annotations = read_annotations(path, split) if path.exists() else None
        if self.annotations is not None:
            missing = np.setdiff1d(self.numbers, self.annotations.numbers)
            if len(missing):
                raise CorruptFileError(
                    f"{path}: expected a scene for each image, but found none for {len(missing)} of "
                    f"{len(self)}, such as {self._path(int(missing[0])).name}: unpack the archive again"
                )
            order = np.argsort(self.annotations.numbers)
            self.rows = order[np.searchsorted(self.annotations.numbers, self.numbers, sorter=order)]

    def image_files(self) -> list[Path]:
        """Return the files of the images."""
        return [self._path(int(number)) for number in self.numbers]

    def __len__(self) -> int:
        return len(self.numbers)

    @cached_property
    def _frame(self) -> tuple[int, ...]:
        return read_image(self._path(int(self.numbers[0])), alpha="drop").shape[:2]

    def _path(self, number: int) -> Path:
        return self.folder / f"CLEVR_{self.split}_{number:06d}.png"

    def image(self, index: int) -> NDArray[np.uint8]:
        """Read an image: colours `(320, 480, 3)`."""
        path = self._path(int(self.numbers[index]))
        return check_frame(path, read_image(path, alpha="drop"), self._frame)

    def targets(self, index: int) -> dict[str, NDArray[Any]]:
        """Return the `objects` of a scene, `(10, 19)`, see `encode_objects`; nothing if they are not described."""
        known = self.annotations
        if known is None:
            return {}
        row = self.rows[index]
        objects = slice(known.starts[row], known.starts[row + 1])
        return {"objects": encode_objects(known.coords[objects], known.codes[objects])}

    def object_counts(self, crop: Crop | None = None) -> NDArray[np.int64]:
        """Count the objects of every scene whose centre lies in a part of the frame (None: all), `(N,)`.

        Raises:
            UserError: If the objects are not described.
        """
        known = self.annotations
        if known is None:
            raise UserError(
                f"Expected no limits on the objects of the {self.split} split, which has no scenes file to count them: "
                "validate instead (`--split val`), or give `eval_max_objects` 0 and no `min_objects`"
            )
        inside = np.ones(len(known.pixels), bool)
        if crop is not None and len(self):
            top, left, height, width = crop
            (rows, columns), (published_rows, published_columns) = self._frame, _FRAME
            column, row = known.pixels.T * np.array([[columns / published_columns], [rows / published_rows]])
            inside = (top <= row) & (row < top + height) & (left <= column) & (column < left + width)
        before = np.concatenate([[0], np.cumsum(inside)])[known.starts]
        return np.asarray(np.diff(before)[self.rows], np.int64)


class CLEVRDataModule(SceneDataModule):
    """CLEVR v1.0: images of 3 to 10 objects (see `SceneDataModule` for the filters and loaders).

    `data_root` is the unpacked folder `CLEVR_v1.0` or the one that it lies in. The folders `images/train`, `images/val`
    and `images/test` are the splits: 70,000, 15,000 and 15,000 images of 320 x 480 pixels. There are no masks. Training
    and validation scenes have `objects` `(10, 19)` float32, see `clevr_objects`; test scenes have not, so
    that experiments on set prediction report the validation split.

    Two framings are in use. For object discovery images are cropped to the central square of 0.8 times their height,
    rows 32 to 287 and columns 112 to 367 (`fit` None or crop). For set prediction the whole frame is squashed to a
    square (`fit` squash). Either is resized bilinearly without antialiasing.

    The filters count the objects whose centre lies in the crop, as there are no masks; they cannot be used on the test
    split. The `objects` are those of the whole scene, whatever the framing.

    Reference:
        Johnson et al., CLEVR: A Diagnostic Dataset for Compositional Language and Elementary Visual Reasoning,
        arXiv:1612.06890.
    """

    name = "clevr"
    recommended = RECOMMENDED["clevr"]
    how_to_get = "download it by `object-discovery download clevr FOLDER`"

    def _find_splits(self, root: str) -> dict[str, Split]:
        given = Path(root).expanduser()
        folder = next((path for path in (given, given / "CLEVR_v1.0") if (path / "images").is_dir()), None)
        if folder is None:
            raise DatasetNotFoundError(
                f"Expected argument `data_root` to be the folder CLEVR_v1.0 or the one that it lies in, but {given} "
                f"has no folder `images`; {self.how_to_get}"
            )
        sources = {split: CLEVRSource(folder, split) for split in SPLITS if (folder / "images" / split).is_dir()}
        splits = {split: self._whole(source) for split, source in sources.items() if len(source)}
        if not splits:
            raise DatasetNotFoundError(
                f"Expected images as CLEVR_train_000000.png in {folder / 'images' / 'train'}, but found none there, "
                f"in `val` or in `test`; {self.how_to_get}"
            )
        return splits

    @staticmethod
    def _whole(source: CLEVRSource) -> Split:
        published = PUBLISHED_SIZES[source.split]
        rule = f"the whole of images/{source.split}"
        rule += ", as published" if len(source) == published else f"; published are {published:,}"
        return Split(source, np.arange(len(source)), rule)

    def _crop(self, frame: tuple[int, ...]) -> Crop | None:
        return None if self.params.fit == "squash" else central_crop(frame)
