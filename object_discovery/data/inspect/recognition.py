"""Recognise the dataset of a file or folder by its layout."""

from __future__ import annotations

from pathlib import Path

import h5py

from object_discovery.data.datasets.folder import ENDINGS
from object_discovery.data.readers.hdf5_scenes import SceneFile
from object_discovery.errors import CorruptFileError, DatasetNotFoundError

_FOLDERS: dict[str, tuple[str, ...]] = {
    "clevr": ("images/*/CLEVR_*.png", "CLEVR_v1.0/images/*/CLEVR_*.png"),
    "clevrtex": ("clevrtex_*", "CLEVRTEX_*", "*/CLEVRTEX_*"),
    "coco": ("train2017", "val2017", "images/train2017", "images/val2017"),
    "voc": ("JPEGImages", "VOC2012/JPEGImages", "VOCdevkit/VOC2012/JPEGImages"),
    "sketchy": tuple(f"{place}{part}/ep[0-9]*" for place in ("processed/", "") for part in ("train", "valid", "test")),
}
"""What the folder of a dataset holds, one of these patterns at least."""
_ARRAYS = {"shapes3d": {"images", "labels"}, "ravens": {"color", "segm"}}
"""What the HDF5 files of a dataset hold, where they are not of scenes with masks."""
_HDF5, _RECORDS = (".h5", ".hdf5"), (".tfrecords", ".tfrecord")


def recognise(root: Path) -> str | None:
    """Recognise the dataset at a path.

    Folders are told by the names in them, HDF5 files by their arrays and attributes; any other folder with images in
    it is `folder`.

    Args:
        root: A file or folder.

    Returns:
        The name of the dataset, or None if nothing known is there.

    Raises:
        DatasetNotFoundError: If there is no such file or folder.
        CorruptFileError: If an HDF5 file is damaged.
        OSError: If a folder may not be read.

    Example:
        >>> recognise(Path("no/such/folder"))
        Traceback (most recent call last):
        object_discovery.errors.DatasetNotFoundError: No such file or folder: no/such/folder
    """
    if not root.exists():
        raise DatasetNotFoundError(f"No such file or folder: {root}")
    if root.is_file():
        return None if _is_image(root) else _recognise_hdf5(root)
    for name, patterns in _FOLDERS.items():
        if any(True for pattern in patterns for _ in root.glob(pattern)):
            return name
    files = sorted(path for path in root.iterdir() if path.suffix in _HDF5)
    if files:
        return next(filter(None, map(_recognise_hdf5, files)), None)
    return "folder" if any(_is_image(path) for path in root.rglob("*")) else None


def find_records(root: Path) -> Path | None:
    """Find the TFRecord file that is at a place.

    Args:
        root: A file or folder.

    Returns:
        The file itself, or the first one of a folder that holds nothing else to read; None if there is none.

    Example:
        >>> find_records(Path("clevr_with_masks_train.tfrecords")).name
        'clevr_with_masks_train.tfrecords'
    """
    if not root.is_dir():
        return root if root.suffix in _RECORDS else None
    files = sorted(path for path in root.iterdir() if path.is_file())
    found = [path for path in files if path.suffix in _RECORDS]
    return found[0] if found and not any(path.suffix in _HDF5 for path in files) else None


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in ENDINGS and not path.name.startswith(".") and path.is_file()


def _recognise_hdf5(path: Path) -> str | None:
    try:
        with h5py.File(path, "r") as file:
            held = set(file)
    except (OSError, RuntimeError, LookupError, ValueError) as error:
        if path.suffix not in _HDF5:
            return None
        reason = " ".join(str(error).split())
        raise CorruptFileError(f"{path}: expected a whole HDF5 file, but it cannot be opened ({reason})") from None
    if {"image", "mask"} <= held:
        return SceneFile(path).dataset
    return next((name for name, arrays in _ARRAYS.items() if arrays <= held), None)
