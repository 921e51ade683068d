"""Sketchy: crops of photographs of a robot arm stacking blocks, without masks."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from object_discovery.data.datamodule import SceneDataModule
from object_discovery.data.geometry import Crop
from object_discovery.data.readers.image_files import read_image
from object_discovery.data.readers.source import SceneSource
from object_discovery.data.splits import Split
from object_discovery.errors import DatasetNotFoundError, UserError
from object_discovery.recommended import RECOMMENDED

VIEWS = tuple(f"{camera}_{part}" for camera in ("fl", "fr") for part in ("full", *(f"c{k}" for k in range(6))))
"""Names of the 14 crops of a time step: the whole and six parts of the frames of two cameras."""
_FOLDERS = {"train": "train", "val": "valid", "test": "test"}
_NAME = re.compile(r"ep\d+_t\d+_f[lr]_(full|c[0-5])\.png")
_RECORD = re.compile(r"\d+_[0-9a-f]{8}-[0-9a-f-]{27}|.*tfrecords?.*|.*\.tar\b.*")  # an episode or archive, as published
_SIZE = 128
_TOP = {"fl": 71, "fr": 91}
_LEFT, _HEIGHT, _WIDTH = 144, 448, 672
_PART = 352


class SketchyImages(SceneSource):
    """The images of one folder, `ep000000/ep000000_t000_fl_full.png` and so on, in the order of their names.

    Args:
        folder: The folder with a folder for each episode.

    Raises:
        DatasetNotFoundError: If there is no such folder, it may not be read, or it holds no such images.

    Example:
        >>> SketchyImages("processed/train")
        Traceback (most recent call last):
        object_discovery.errors.DatasetNotFoundError: Cannot list processed/train: No such file or directory
    """

    layout = "PNG files"

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self.names = _list(self.folder)

    def image_files(self) -> list[Path]:
        """Return the files of the images."""
        return [self._path(index) for index in range(len(self))]

    def __len__(self) -> int:
        return len(self.names)

    def image(self, index: int) -> NDArray[np.uint8]:
        """Read an image: colours `(H, W, 3)`."""
        return read_image(self._path(index))

    def _path(self, index: int) -> Path:
        name: str = self.names[index].decode()
        return self.folder / name.split("_")[0] / name

    def object_counts(self, crop: Crop | None = None) -> NDArray[np.int64]:
        """Refuse to count objects, which nothing tells.

        Raises:
            UserError: Always.
        """
        raise UserError(
            "Expected arguments `min_objects`, `max_objects` and `eval_max_objects` to be None, as sketchy has no "
            "masks to count objects in"
        )


class SketchyDataModule(SceneDataModule):
    """Sketchy, without label maps: only the reconstruction can be scored (see `SceneDataModule` for the rest).

    `data_root` is the folder with `processed/{train,valid,test}`, or `processed` itself, as the GENESIS-V2 experiments
    prepared it: `ep000000/ep000000_t000_fl_full.png` is the whole frame of the camera at the front left at the first
    time step of the first episode, `..._fl_c0.png` to `..._fl_c5.png` are parts of it, and `fr` is the camera at the
    right. All of these images count as scenes of their own, as published. `object-discovery convert sketchy` cuts them
    from the published records.

    The folders are the splits, episode by episode: `valid` validates. Without it the last 15 % of the episodes in
    `train` validate (at least one); without `test` there is no test split. Images have 128 x 128 pixels; others are
    resized.

    Reference:
        Cabi et al., Scaling Data-Driven Robotics with Reward Sketching, arXiv:1909.12200 (the data); Engelcke et al.,
        GENESIS-V2, arXiv:2104.09958 (the crops and splits).
    """

    name = "sketchy"
    recommended = RECOMMENDED["sketchy"]

    def _find_splits(self, root: str) -> dict[str, Split]:
        folders = _find_folders(Path(root).expanduser())
        sources = {split: SketchyImages(folder) for split, folder in folders.items()}
        splits = {
            split: Split(source, np.arange(len(source)), f"all of {source.folder.name}")
            for split, source in sources.items()
        }
        if "train" in splits and "val" not in splits:
            start = _last_episodes(sources["train"])
            source, scenes = sources["train"], splits["train"].indices
            splits["train"] = Split(source, scenes[:start], "the first 85 % of the episodes of train")
            splits["val"] = Split(source, scenes[start:], "the last 15 % of the episodes of train")
        return splits


def views(front_left: NDArray[np.uint8], front_right: NDArray[np.uint8]) -> dict[str, NDArray[np.uint8]]:
    """Cut the 14 images of a time step from the frames of the two cameras.

    Of each frame 448 x 672 pixels are kept. The middle 448 x 448 of them are `full`; six parts of 352 x 352 are `c0`
    to `c5`: left, centre and right at the top, then at the bottom. All are resized bilinearly, as PIL does.

    Args:
        front_left: Frame of the camera at the front left, `(600, 960, 3)`.
        front_right: Frame of the camera at the front right, `(600, 960, 3)`.

    Returns:
        For each name of `VIEWS` an image `(128, 128, 3)`.

    Raises:
        ValueError: If a frame has another shape.

    Example:
        >>> frame = np.zeros((600, 960, 3), np.uint8)
        >>> views(frame, frame)["fr_c5"].shape
        (128, 128, 3)
    """
    cut: dict[str, NDArray[np.uint8]] = {}
    for camera, argument, frame in (("fl", "front_left", front_left), ("fr", "front_right", front_right)):
        if frame.shape != (600, 960, 3) or frame.dtype != np.uint8:
            got = f"{frame.dtype} {frame.shape}"
            raise ValueError(f"Expected argument `{argument}` to be uint8 (600, 960, 3), but got {got}")
        kept = Image.fromarray(frame[_TOP[camera] : _TOP[camera] + _HEIGHT, _LEFT : _LEFT + _WIDTH])
        margin = (_WIDTH - _HEIGHT) // 2
        boxes = {"full": (margin, 0, margin + _HEIGHT, _HEIGHT)}
        for number in range(6):
            top, left = (number // 3) * (_HEIGHT - _PART), (number % 3) * (_WIDTH - _PART) // 2
            boxes[f"c{number}"] = (left, top, left + _PART, top + _PART)
        for part, box in boxes.items():
            image = kept.crop(box).resize((_SIZE, _SIZE), Image.Resampling.BILINEAR)
            cut[f"{camera}_{part}"] = np.array(image)
    return cut


def _list(folder: Path) -> NDArray[np.bytes_]:
    """List the names of the images, which also tell their episodes, `(N,)`; half a million take a second."""
    names: list[str] = []
    try:
        with os.scandir(folder) as episodes:
            for episode in [entry.name for entry in episodes if entry.name.startswith("ep") and entry.is_dir()]:
                with os.scandir(folder / episode) as files:
                    names += [file.name for file in files if file.name.startswith(f"{episode}_")]
    except OSError as error:
        raise DatasetNotFoundError(f"Cannot list {error.filename}: {error.strerror}") from None
    names = sorted(name for name in names if _NAME.fullmatch(name))
    if not names:
        raise DatasetNotFoundError(
            f"Expected {folder} to hold images such as ep000000/ep000000_t000_fl_full.png, but found none"
        )
    return np.array(names, np.bytes_)


def _find_folders(root: Path) -> dict[str, Path]:
    """Find the folder of each split."""
    for parent in (root / "processed", root):
        folders = {split: parent / name for split, name in _FOLDERS.items() if (parent / name).is_dir()}
        if folders:
            return folders
    advice = SketchyDataModule.how_to_get
    if not root.exists():
        raise DatasetNotFoundError(f"Expected argument `data_root` to hold Sketchy, but {root} does not exist")
    for parent in (root / "records", root):
        if any(_RECORD.fullmatch(path.name) for path in _in(parent)):
            command = f"`object-discovery convert sketchy {parent} {root / 'processed'}`"
            advice = f"these are the published records: unpack archives if there are any, then run {command}"
            break
    raise DatasetNotFoundError(
        f"Expected argument `data_root` to hold processed/train, processed/valid or processed/test, but {root} has "
        f"none of them: {advice}"
    )


def _in(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else [folder]


def _last_episodes(source: SketchyImages) -> int:
    """Return the first image of the last 15 % of the episodes."""
    episodes = np.array([name.split(b"_")[0] for name in source.names.tolist()])
    firsts = np.flatnonzero(np.r_[True, episodes[1:] != episodes[:-1]])
    if len(firsts) < 2:
        raise UserError(
            f"Expected at least 2 episodes in {source.folder}, some to train and some to validate, "
            f"but got {len(firsts)}"
        )
    return int(firsts[len(firsts) - max(1, len(firsts) * 15 // 100)])
