"""Folders of images that users bring, with or without label maps."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from object_discovery.data.datamodule import SceneDataModule
from object_discovery.data.readers.image_files import read_image, read_image_size, read_label_map
from object_discovery.data.readers.photographs import Fit, PhotographSource, check_size, file_states
from object_discovery.data.splits import SPLITS, PublishedSplit, Split, split_indices
from object_discovery.discovery import IGNORED
from object_discovery.errors import CorruptFileError, DatasetNotFoundError, UserError
from object_discovery.recommended import RECOMMENDED

ENDINGS = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""What the names of images end in, in any case."""
_SAMPLE = 16  # label maps that are looked at before anything starts


class FolderSource(PhotographSource):
    """The images of a folder and those below it, in sorted order; hidden files are left out.

    Args:
        images: The folder.
        masks: Folder of the label maps: for `images/a/b.jpg` the file `a/b.png` in it. If it lies in `images`, it
            holds no images. None: no label maps.
        fit: How images become square. None: by their central square.

    Raises:
        DatasetNotFoundError: If there are no images, or some of them have no label map.
    """

    def __init__(self, images: Path, masks: Path | None = None, fit: Fit | None = None) -> None:
        super().__init__(fit)
        self.images = images
        self.masks = masks
        self.names = _find_images(images, masks)
        if not self.names:
            raise DatasetNotFoundError(f"Expected images in {images}, but found none ({', '.join(ENDINGS)})")
        for name in self.names if masks else ():
            if not self._mask(name).is_file():
                raise DatasetNotFoundError(
                    f"Expected the label map of {images / name} in {self._mask(name)}, but there is no file: "
                    "give every image one, or none"
                )

    def __len__(self) -> int:
        return len(self.names)

    def image_files(self) -> list[Path]:
        """Return the files of the images."""
        return [self.images / name for name in self.names]

    def _mask(self, name: str) -> Path:
        assert self.masks is not None
        return (self.masks / name).with_suffix(".png")

    def _image(self, index: int) -> NDArray[np.uint8]:
        return read_image(self.images / self.names[index])

    def _maps(self, index: int) -> dict[str, NDArray[np.uint8]]:
        if self.masks is None:
            return {}
        path = self._mask(self.names[index])
        labels = read_label_map(path, relabel=True)
        check_size(path, labels.shape, read_image_size(self.images / self.names[index]), "its image")
        return {"mask": labels}

    def _counts_source(self) -> tuple[Path, object]:
        if self.masks is None:
            raise UserError(
                f"Expected label maps of {self.images} to count objects in, but found none: leave out "
                "`min_objects`, `max_objects` and `eval_max_objects`"
            )
        return self.masks, file_states(self._mask(name) for name in self.names)


def _find_images(images: Path, masks: Path | None) -> list[str]:
    """List the images below a folder, as paths relative to it."""
    paths: Sequence[Path] = [path for path in images.rglob("*") if path.suffix.lower() in ENDINGS and path.is_file()]
    if masks is not None and masks.is_relative_to(images):
        paths = [path for path in paths if not path.is_relative_to(masks)]
    names = [path.relative_to(images) for path in paths]
    return [name.as_posix() for name in sorted(names) if not any(part.startswith(".") for part in name.parts)]


class FolderDataModule(SceneDataModule):
    """Any folder of images (see `SceneDataModule` for sizes, filters and loaders).

    `data_root` holds folders `train`, `val` and `test`, of which some may be missing, or is one folder to be split.
    Each of these holds its images in `images` and their label maps in `masks`, or just images. Images are found in
    folders below, in sorted order. A label map is a PNG of the same name, for `images/a/b.jpg` it is `masks/a/b.png`:
    a palette or grey image of the same size, where 0 is the background and 255 is ignored. Masks of 0 and 255 alone are
    refused.

    *Splits.* `train`, `val` and `test` are used as they are; without `val` the last 15 % of the training images
    validate, without `test` there is no test split. A single folder is split 70 / 15 / 15 % in sorted order.

    *Label maps.* Without `masks` there are none in the batch, and only the reconstruction can be scored; if some
    images have one, all must.

    *Shape.* `fit`: by default the central square; `squash` keeps the whole image. Images are turned as EXIF says and
    resized bilinearly with antialiasing, label maps to the nearest pixel.
    """

    name = "folder"
    recommended = RECOMMENDED["folder"]
    antialias = True
    how_to_get = "give the folder of your images"

    @property
    def has_masks(self) -> bool:
        """Whether the validation images have label maps, without which only the reconstruction can be scored."""
        split = self.splits.get("val") or next(iter(self.splits.values()), None)
        return split is not None and "mask" in split.source.maps(0)

    def _find_splits(self, root: str) -> dict[str, Split]:
        folder = Path(root).expanduser()
        if not folder.is_dir():
            got = "is a file" if folder.exists() else "does not exist"
            raise DatasetNotFoundError(f"Expected argument `data_root` to be a folder of images, but {folder} {got}")
        named = {split: self._source(folder / split) for split in SPLITS if (folder / split).is_dir()}
        if not named:
            source = self._source(folder)
            indices, rule = split_indices(len(source), PublishedSplit(sys.maxsize, 0))
            return {split: Split(source, chosen, rule) for split, chosen in indices.items()}
        splits = {
            split: Split(source, np.arange(len(source)), f"the whole of {split}") for split, source in named.items()
        }
        if "train" in named and "val" not in named:
            splits.update(_hold_out(named["train"]))
        return {split: splits[split] for split in SPLITS if split in splits}

    def _source(self, folder: Path) -> FolderSource:
        images = folder / "images" if (folder / "images").is_dir() else folder
        masks = folder / "masks" if (folder / "masks").is_dir() else None
        source = FolderSource(images, masks, self.params.fit)
        if masks is not None:
            _check_labels(source)
        return source


def _check_labels(source: FolderSource) -> None:
    """Refuse black and white masks, in which every object would be ignored; a sample is checked."""
    values: set[int] = set()
    sample = np.linspace(0, len(source) - 1, min(_SAMPLE, len(source)), dtype=int).tolist()
    for index in sample:
        with suppress(CorruptFileError):  # reported when it is used
            values.update(np.unique(source.maps(index)["mask"]).tolist())
    if values == {0, IGNORED}:
        raise UserError(
            f"Expected label maps in {source.masks} to number the objects from 1, but {len(sample)} of them hold 0 and "
            f"{IGNORED} only, which is background and ignored: write 1 in place of {IGNORED}"
        )


def _hold_out(source: FolderSource) -> dict[str, Split]:
    """Split the training images, of which the last 15 % validate."""
    scenes = np.arange(len(source))
    if len(scenes) < 2:
        raise UserError(f"Expected at least 2 images in {source.images}, some to validate, but got {len(scenes)}")
    count = max(1, len(scenes) * 15 // 100)
    return {
        "train": Split(source, scenes[:-count], "the first 85 % of train"),
        "val": Split(source, scenes[-count:], "the last 15 % of train"),
    }
