"""Recognition of datasets by their layout on disk."""

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
    "sketchy": tuple(
        f"{parent}{split}/ep[0-9]*" for parent in ("processed/", "") for split in ("train", "valid", "test")
    ),
}
"""Glob patterns of each dataset's folder, of which at least one matches."""
_ARRAYS = {"shapes3d": {"images", "labels"}, "ravens": {"color", "segm"}}
"""Names of the arrays in HDF5 files of datasets that are not read by `SceneFile`."""
_HDF5, _RECORDS = (".h5", ".hdf5"), (".tfrecords", ".tfrecord")


def recognise(root: Path) -> str | None:
    """Recognise the dataset in a file or folder.

    Folders are recognised by the names of their files, HDF5 files by their arrays and attributes. Any other folder with
    images is `folder`.

    Args:
        root: File or folder.

    Returns:
        Name of the dataset; None if it is not recognised.

    Raises:
        DatasetNotFoundError: If the file or folder does not exist.
        CorruptFileError: If an HDF5 file is damaged.
        OSError: If a folder is not readable.

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
    """Find a TFRecord file.

    Args:
        root: File or folder.

    Returns:
        The file itself, or the first TFRecord file of a folder without HDF5 files; None if there is none.

    Example:
        >>> find_records(Path("clevr_with_masks_train.tfrecords")).name
        'clevr_with_masks_train.tfrecords'
    """
    if not root.is_dir():
        return root if root.suffix in _RECORDS else None
    files = sorted(path for path in root.iterdir() if path.is_file())
    records = [path for path in files if path.suffix in _RECORDS]
    return records[0] if records and not any(path.suffix in _HDF5 for path in files) else None


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in ENDINGS and not path.name.startswith(".") and path.is_file()


def _recognise_hdf5(path: Path) -> str | None:
    try:
        with h5py.File(path, "r") as file:
            names = set(file)
    except (OSError, RuntimeError, LookupError, ValueError) as error:
        if path.suffix not in _HDF5:
            return None
        reason = " ".join(str(error).split())
        raise CorruptFileError(f"{path}: expected a whole HDF5 file, but it cannot be opened ({reason})") from None
    if {"image", "mask"} <= names:
        return SceneFile(path).dataset
    return next((name for name, arrays in _ARRAYS.items() if arrays <= names), None)
