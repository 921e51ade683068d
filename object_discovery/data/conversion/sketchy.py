"""Conversion of Sketchy's TFRecord files to the images of GENESIS-V2, without TensorFlow.

A file is one episode, an uncompressed TFRecord without extension, with a name such as
`10000313341320364033_b615a417-ce34-41a8-8411-2a1ce3f3bd07`. Each record is a `tf.train.Example` of one time step with
the JPEG frames of two cameras, `pixels/basket_front_left` and `pixels/basket_front_right`. The size of 600 x 960 pixels
follows from the published crop of 448 x 672; other sizes are refused.

PIL decodes JPEG more accurately than TensorFlow's default, so that pixels may differ by a few grey levels from images
converted with TensorFlow. The state of the robot, which GENESIS-V2 also stores, is omitted.

Reference:
    https://github.com/google-deepmind/deepmind-research/tree/master/sketchy (the records); Engelcke et al.,
    GENESIS-V2, arXiv:2104.09958 (the crops and splits).
"""

from __future__ import annotations

import io
import os
import shutil
import threading
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from rich.progress import MofNCompleteColumn

from object_discovery.data.conversion.parallel import ordered_map, resolve_workers
from object_discovery.data.conversion.tfrecord import Record, read_records
from object_discovery.data.datasets.sketchy import views
from object_discovery.errors import CorruptFileError, DatasetNotFoundError, UserError
from object_discovery.files import atomic_write
from object_discovery.progress import progress_bar

CAMERAS = ("pixels/basket_front_left", "pixels/basket_front_right")
"""Names of the features with the frames."""
_SIZE = (960, 600)  # width and height of a frame
_SPLITS = ("train", "valid", "test")
_EPISODE_LIST = "episodes.txt"
_ARCHIVES = (".tar", ".bz2")
_OTHER_FILES = (".done", ".json", ".md", ".part", ".sh", ".sqlite", ".txt")  # in the same folders as episodes


class Episode(NamedTuple):
    """Record file and image folder of an episode."""

    path: Path
    """TFRecord file."""
    folder: Path
    """Folder of the images; it exists once the episode is complete."""


def convert_sketchy(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    workers: int | None = None,
    progress: bool = True,
) -> list[Episode]:
    """Crop the images of all episodes; complete episodes are skipped, so that an interrupted conversion continues.

    Args:
        source: Folder of the unpacked TFRecord files of all tasks, in subfolders or not.
        target: Output folder of `train`, `valid` and `test`.
        workers: Number of threads. None: one per core; 0: run in the calling thread.
        progress: Show a progress bar on a terminal.

    Returns:
        All episodes, see `split_episodes`.

    Raises:
        DatasetNotFoundError: If there are no TFRecord files.
        CorruptFileError: If a record is damaged or not of Sketchy; no image of its episode is written.
        UserError: If the target has images of other episodes or is not writable.
        ValueError: If `workers` is negative.
    """
    workers = resolve_workers(workers)
    target = Path(target)
    episodes = split_episodes(_find_files(Path(source), target), target)
    try:
        _check_target(target, episodes)
        _convert_episodes(episodes, workers, progress)
    except OSError as error:
        raise UserError(f"Cannot write {error.filename or target}: {error.strerror or error}") from None
    return episodes


def split_episodes(files: list[Path], target: Path) -> list[Episode]:
    """Split episodes as published: sorted by name, the first tenth for validation, the second for testing.

    Args:
        files: TFRecord files.
        target: Output folder of the splits.

    Returns:
        Episodes, numbered consecutively through `train`, `valid` and `test`.

    Example:
        >>> [str(folder) for _, folder in split_episodes([Path(f"{n}_x") for n in range(10, 20)], Path("p"))][7:]
        ['p/train/ep000007', 'p/valid/ep000008', 'p/test/ep000009']
    """
    files, tenth = sorted(files, key=lambda path: path.name), len(files) // 10
    splits = (files[2 * tenth :], files[:tenth], files[tenth : 2 * tenth])
    pairs = [(name, file) for name, split in zip(_SPLITS, splits, strict=True) for file in split]
    return [Episode(file, target / name / f"ep{number:06}") for number, (name, file) in enumerate(pairs)]


def _find_files(source: Path, target: Path) -> list[Path]:
    """Find the TFRecord files outside the target; hidden files, archives and other known files are skipped."""
    if not source.is_dir():
        raise DatasetNotFoundError(f"Expected a folder with the records of Sketchy, but {source} is not a folder")
    excluded = target.absolute()
    files = [path for path in source.rglob("*") if excluded not in path.absolute().parents and path.is_file()]
    files = [path for path in files if not any(part.startswith(".") for part in path.relative_to(source).parts)]
    records = [path for path in files if path.suffix not in (*_ARCHIVES, *_OTHER_FILES)]
    if not records:
        archives = [path.name for path in files if path.suffix in _ARCHIVES]
        advice = f"unpack {archives[0]} first" if archives else "`object-discovery download sketchy ROOT` gets them"
        raise DatasetNotFoundError(f"Expected {source} to hold the records of Sketchy, but found none: {advice}")
    names: dict[str, Path] = {}
    for path in records:
        if path.name in names:
            raise UserError(f"{path} and {names[path.name]} are the same episode: remove one of them")
        names[path.name] = path
    return records


def _check_target(target: Path, episodes: list[Episode]) -> None:
    """Check that the target has images of these episodes only, and write a list of them to it."""
    path = target / _EPISODE_LIST
    text = "".join(f"{folder.relative_to(target).as_posix()} {file.name}\n" for file, folder in episodes)
    if path.exists():
        if path.read_text(encoding="utf-8", errors="replace") != text:
            raise UserError(f"{target} holds images of other episodes than these: choose another folder or remove it")
        return
    if any(any((target / split).glob("ep*")) for split in _SPLITS):
        raise UserError(f"{target} holds images of unknown episodes: choose another folder or remove it")
    target.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _convert_episodes(episodes: list[Episode], workers: int, progress: bool) -> None:
    """Convert the episodes that are not complete; the first error in their order is raised."""
    missing, stop = [episode for episode in episodes if not episode.folder.is_dir()], threading.Event()
    bar = progress_bar(MofNCompleteColumn(), enabled=progress)
    task = bar.add_task("episodes", total=len(episodes), completed=len(episodes) - len(missing))
    with bar:
        for _ in ordered_map(lambda episode: _convert_episode(episode, stop), missing, workers, stop):
            bar.advance(task)


def _convert_episode(episode: Episode, stop: threading.Event) -> None:
    """Write the images of an episode to a temporary folder, and rename it when it is complete."""
    temporary = episode.folder.with_name(f".{episode.folder.name}.new")
    shutil.rmtree(temporary, ignore_errors=True)  # of a killed process
    try:
        temporary.mkdir(parents=True)
        step = -1
        for step, record in enumerate(read_records(episode.path)):
            if stop.is_set():
                return
            features = record.example()
            left, right = (_decode(record, features, camera) for camera in CAMERAS)
            for name, image in views(left, right).items():
                Image.fromarray(image).save(temporary / f"{episode.folder.name}_t{step:03}_{name}.png")
        if step < 0:
            raise CorruptFileError(f"{episode.path}: expected an episode of Sketchy, but it holds no time step")
        os.replace(temporary, episode.folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _decode(record: Record, features: dict[str, NDArray[Any]], camera: str) -> NDArray[np.uint8]:
    """Decode the frame of a camera, `(600, 960, 3)`."""
    location = f"{record.path}: damaged at byte {record.offset}: expected a time step of Sketchy"
    if camera not in features:
        raise CorruptFileError(f"{location}, but it has no `{camera}`")
    try:
        with Image.open(io.BytesIO(features[camera].tobytes()), formats=("JPEG", "PNG")) as image:
            if image.size == _SIZE and image.mode == "RGB":
                return np.array(image)
            got = f"{image.mode} of {image.height} x {image.width}"
    except Exception as error:  # PIL raises many types
        reason = "no JPEG" if isinstance(error, UnidentifiedImageError) else " ".join(str(error).split())
        raise CorruptFileError(f"{location}, but `{camera}` cannot be decoded ({reason})") from None
    raise CorruptFileError(f"{location}, but `{camera}` is {got}, not RGB of 600 x 960")
