"""Convert the published records of Sketchy to the images that GENESIS-V2 was trained on, without TensorFlow.

A file holds an episode as an uncompressed TFRecord; it has no ending and a name such as
`10000313341320364033_b615a417-ce34-41a8-8411-2a1ce3f3bd07`. Each record is a `tf.train.Example` of one time step, with
the frames of the cameras as JPEG in `pixels/basket_front_left` and `pixels/basket_front_right`. That frames have 600 x
960 pixels follows from the published crop of 448 x 672; frames of another size are refused.

PIL decodes a JPEG more accurately than TensorFlow's default, so that pixels may differ by a few grey levels from images
made with TensorFlow. The state of the robot, which GENESIS-V2 stores with the images, is left out.

Reference:
    https://github.com/google-deepmind/deepmind-research/tree/master/sketchy (the records); Engelcke et al.,
    GENESIS-V2, arXiv:2104.09958 (the crops and splits).
"""

from __future__ import annotations

import io
import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from rich.progress import MofNCompleteColumn

from object_discovery.data.conversion.tfrecord import Record, read_records
from object_discovery.data.datasets.sketchy import views
from object_discovery.errors import CorruptFileError, DatasetNotFoundError, UserError
from object_discovery.files import atomic_write
from object_discovery.progress import progress_bar

CAMERAS = ("pixels/basket_front_left", "pixels/basket_front_right")
"""Names of the features that hold the frames."""
_SIZE = (960, 600)
_SPLITS = ("train", "valid", "test")
_NOTE = "episodes.txt"
_ARCHIVES = (".tar", ".bz2")
_OTHERS = (".done", ".json", ".md", ".part", ".sh", ".sqlite", ".txt")  # other files allowed in the folder of episodes


class Episode(NamedTuple):
    """An episode, and where its images go."""

    path: Path
    """The file with the records."""
    folder: Path
    """The folder of the images, which exists once all of them are there."""


def convert_sketchy(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    workers: int | None = None,
    progress: bool = True,
) -> list[Episode]:
    """Cut the images of all episodes from their frames; episodes that are finished are left alone.

    Args:
        source: The folder with the unpacked records of all tasks, in folders or not.
        target: The folder to write `train`, `valid` and `test` to.
        workers: Threads. None: one for each core; 0: one.
        progress: Show a progress bar on a terminal.

    Returns:
        The episodes.

    Raises:
        DatasetNotFoundError: If there are no records.
        CorruptFileError: If a record is damaged or something else; nothing of its episode is left behind.
        UserError: If the target holds other episodes or cannot be written.
        ValueError: If `workers` is negative.
    """
    if workers is not None and workers < 0:
        raise ValueError(f"Expected argument `workers` to be at least 0, but got {workers}")
    target = Path(target)
    episodes = place_episodes(_find_files(Path(source), target), target)
    try:
        _check_target(target, episodes)
        _convert_all(episodes, (os.cpu_count() or 1) if workers is None else max(1, workers), progress)
    except OSError as error:
        raise UserError(f"Cannot write {error.filename or target}: {error.strerror or error}") from None
    return episodes


def place_episodes(files: list[Path], target: Path) -> list[Episode]:
    """Split the episodes as published: by their names, the first tenth validates and the second tests.

    Args:
        files: The files.
        target: The folder of the splits.

    Returns:
        The episodes, numbered through `train`, `valid` and `test`.

    Example:
        >>> [str(folder) for _, folder in place_episodes([Path(f"{n}_x") for n in range(10, 20)], Path("p"))][7:]
        ['p/train/ep000007', 'p/valid/ep000008', 'p/test/ep000009']
    """
    files, tenth = sorted(files, key=lambda path: path.name), len(files) // 10
    parts = (files[2 * tenth :], files[:tenth], files[tenth : 2 * tenth])
    placed = [(split, file) for split, part in zip(_SPLITS, parts, strict=True) for file in part]
    return [Episode(file, target / split / f"ep{number:06}") for number, (split, file) in enumerate(placed)]


def _find_files(source: Path, target: Path) -> list[Path]:
    """Find the files of the episodes."""
    if not source.is_dir():
        raise DatasetNotFoundError(f"Expected a folder with the records of Sketchy, but {source} is none")
    inside = target.absolute()
    outside = [path for path in source.rglob("*") if inside not in path.absolute().parents and path.is_file()]
    held = [path for path in outside if not any(part.startswith(".") for part in path.relative_to(source).parts)]
    found = [path for path in held if path.suffix not in (*_ARCHIVES, *_OTHERS)]
    if not found:
        packed = [path.name for path in held if path.suffix in _ARCHIVES]
        advice = f"unpack {packed[0]} first" if packed else "`object-discovery download sketchy ROOT` gets them"
        raise DatasetNotFoundError(f"Expected {source} to hold the records of Sketchy, but found none: {advice}")
    names: dict[str, Path] = {}
    for path in found:
        if path.name in names:
            raise UserError(f"{path} and {names[path.name]} are the same episode: remove one of them")
        names[path.name] = path
    return found


def _check_target(target: Path, episodes: list[Episode]) -> None:
    """Check that the target holds nothing but some of these episodes, and note in it which they are."""
    note = target / _NOTE
    text = "".join(f"{folder.relative_to(target).as_posix()} {path.name}\n" for path, folder in episodes)
    if note.exists():
        if note.read_text(encoding="utf-8", errors="replace") != text:
            raise UserError(f"{target} holds images of other episodes than these: choose another folder or remove it")
        return
    if any(any((target / split).glob("ep*")) for split in _SPLITS):
        raise UserError(f"{target} holds images of unknown episodes: choose another folder or remove it")
    target.mkdir(parents=True, exist_ok=True)
    with atomic_write(note) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _convert_all(episodes: list[Episode], workers: int, progress: bool) -> None:
    """Convert the episodes that are missing; the first error in their order ends all."""
    missing, stop = [episode for episode in episodes if not episode.folder.is_dir()], threading.Event()
    bar = progress_bar(MofNCompleteColumn(), enabled=progress)
    task = bar.add_task("episodes", total=len(episodes), completed=len(episodes) - len(missing))
    with bar, ThreadPoolExecutor(workers) as pool:
        try:
            for future in [pool.submit(_convert, episode, stop) for episode in missing]:
                future.result()
                bar.advance(task)
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)


def _convert(episode: Episode, stop: threading.Event) -> None:
    """Write the images of an episode to a temporary folder, and put them in place when they are whole."""
    staging = episode.folder.with_name(f".{episode.folder.name}.new")
    shutil.rmtree(staging, ignore_errors=True)  # of a run that was killed
    try:
        staging.mkdir(parents=True)
        step = -1
        for step, record in enumerate(read_records(episode.path)):
            if stop.is_set():
                return
            features = record.example()
            left, right = (_decode(record, features, camera) for camera in CAMERAS)
            for name, image in views(left, right).items():
                Image.fromarray(image).save(staging / f"{episode.folder.name}_t{step:03}_{name}.png")
        if step < 0:
            raise CorruptFileError(f"{episode.path}: expected an episode of Sketchy, but it holds no time step")
        os.replace(staging, episode.folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _decode(record: Record, features: dict[str, NDArray[Any]], camera: str) -> NDArray[np.uint8]:
    """Decode the frame of a camera, `(600, 960, 3)`."""
    where = f"{record.path}: damaged at byte {record.offset}: expected a time step of Sketchy"
    if camera not in features:
        raise CorruptFileError(f"{where}, but it has no `{camera}`")
    try:
        with Image.open(io.BytesIO(features[camera].tobytes()), formats=("JPEG", "PNG")) as image:
            if image.size == _SIZE and image.mode == "RGB":
                return np.array(image)
            got = f"{image.mode} of {image.height} x {image.width}"
    except Exception as error:  # PIL fails in many ways
        reason = "no JPEG" if isinstance(error, UnidentifiedImageError) else " ".join(str(error).split())
        raise CorruptFileError(f"{where}, but `{camera}` cannot be decoded ({reason})") from None
    raise CorruptFileError(f"{where}, but `{camera}` is {got}, not RGB of 600 x 960")
