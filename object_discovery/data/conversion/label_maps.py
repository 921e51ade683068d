"""Conversion of label maps with large ids or RGB colours to 8-bit PNG files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from rich.progress import MofNCompleteColumn

from object_discovery.data.label_maps import compact_labels
from object_discovery.data.readers.image_files import open_image, read_label_ids
from object_discovery.errors import CorruptFileError, DatasetNotFoundError, UserError
from object_discovery.files import atomic_write
from object_discovery.progress import progress_bar
from object_discovery.visualization.palette import palette

ENDINGS = (".bmp", ".gif", ".png", ".tif", ".tiff")
"""File name endings of label maps, in any case."""


def convert_label_maps(
    source: str | Path,
    target: str | Path,
    *,
    ignore: int | None = None,
    workers: int | None = None,
    progress: bool = True,
) -> int:
    """Convert label maps to 8-bit PNG files with a palette, in which the objects of each image are numbered from 1.

    Every label map of a folder and its subfolders becomes `target/<same path>.png`, see `compact_labels`. Files that
    are there and newer than their source are left alone, so that an interrupted conversion continues.

    Args:
        source: Folder of label maps: grey or palette images of any bit depth, or one RGB colour for each object.
        target: Folder to write to; created if missing.
        ignore: Label of pixels to ignore, which becomes 255. None: no such label.
        workers: Threads. None: one for each core; 0: the main thread.
        progress: Show a progress bar on a terminal.

    Returns:
        Number of label maps in `target`.

    Raises:
        DatasetNotFoundError: If there is no such folder, or no label maps in it.
        CorruptFileError: If a file is damaged, lossy, or has more than 254 objects.
        UserError: If two files would get the same name, or the folders are the same.
        ValueError: If `workers` is negative.
        OSError: If a file cannot be written.
    """
    source, target = Path(source).expanduser(), Path(target).expanduser()
    if workers is not None and workers < 0:
        raise ValueError(f"Expected argument `workers` to be at least 0, but got {workers}")
    if not source.is_dir():
        raise DatasetNotFoundError(f"Expected a folder of label maps, but {source} is not a folder")
    if source.resolve() == target.resolve():
        raise UserError(f"Expected argument `target` to be another folder than {source}")
    pairs = _find_pairs(source, target)

    def convert(pair: tuple[Path, Path]) -> None:
        _convert_file(*pair, ignore)

    with progress_bar(MofNCompleteColumn(), enabled=progress) as bar, _mapper(workers) as run:
        task = bar.add_task("label maps", total=len(pairs))
        for _ in run(convert, pairs):
            bar.advance(task)
    return len(pairs)


def _find_pairs(source: Path, target: Path) -> list[tuple[Path, Path]]:
    """Return each label map and the file it becomes."""
    files = sorted(path for path in source.rglob("*") if path.suffix.lower() in ENDINGS and path.is_file())
    files = [path for path in files if not path.resolve().is_relative_to(target.resolve())]
    files = [path for path in files if not any(part.startswith(".") for part in path.relative_to(source).parts)]
    if not files:
        raise DatasetNotFoundError(f"Expected label maps in {source}, but found none ({', '.join(ENDINGS)})")
    outputs: dict[Path, Path] = {}
    for path in files:
        output = (target / path.relative_to(source)).with_suffix(".png")
        if output in outputs:
            raise UserError(f"{path} and {outputs[output]} would both become {output}: rename one of them")
        outputs[output] = path
    return [(path, output) for output, path in outputs.items()]


def _convert_file(path: Path, output: Path, ignore: int | None) -> None:
    if output.exists() and output.stat().st_mtime_ns >= path.stat().st_mtime_ns:
        return
    with open_image(path) as image:
        ids = read_label_ids(path, image)
    try:
        labels = compact_labels(ids, ignore=ignore)
    except ValueError as error:
        raise CorruptFileError(f"{path}: {error}") from error
    result = Image.fromarray(labels)
    colours = palette(256)
    colours[255] = 255
    result.putpalette(colours.tobytes())
    with atomic_write(output) as temporary:
        result.save(temporary, format="PNG")


@contextmanager
def _mapper(workers: int | None) -> Iterator[Callable[..., Iterator[None]]]:
    """Provide `map`, or its counterpart of a thread pool."""
    if workers == 0:
        yield map
        return
    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        try:
            yield pool.map
        finally:
            pool.shutdown(cancel_futures=True)
