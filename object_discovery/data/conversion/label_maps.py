"""Conversion of label maps with ids above 255 or RGB colours to 8-bit PNG files."""

from __future__ import annotations

from pathlib import Path

from PIL import Image
from rich.progress import MofNCompleteColumn

from object_discovery.data.conversion.parallel import ordered_map, resolve_workers
from object_discovery.data.label_maps import compact_labels
from object_discovery.data.readers.image_files import open_image, read_label_ids
from object_discovery.errors import CorruptFileError, DatasetNotFoundError, UserError
from object_discovery.files import atomic_write
from object_discovery.progress import progress_bar
from object_discovery.visualization.palette import palette

ENDINGS = (".bmp", ".gif", ".png", ".tif", ".tiff")
"""File name extensions of label maps, in lower or upper case."""


def convert_label_maps(
    source: str | Path,
    target: str | Path,
    *,
    ignore: int | None = None,
    workers: int | None = None,
    progress: bool = True,
) -> int:
    """Convert label maps to 8-bit palette PNG files, in which the objects of each image are numbered from 1.

    Every label map in a folder and its subfolders becomes `target/<same path>.png`, see `compact_labels`. Targets newer
    than their source are skipped, so that an interrupted conversion continues.

    Args:
        source: Folder of label maps: grey or palette images of any bit depth, or one RGB colour per object.
        target: Output folder; created if missing.
        ignore: Label of ignored pixels, which becomes 255. None: no pixel is ignored.
        workers: Number of threads. None: one per core; 0: run in the calling thread.
        progress: Show a progress bar on a terminal.

    Returns:
        Number of label maps in `target`.

    Raises:
        DatasetNotFoundError: If the folder does not exist or has no label maps.
        CorruptFileError: If a file is damaged, of a lossy format, or has more than 254 objects.
        UserError: If two files have the same target, or the folders are the same.
        ValueError: If `workers` is negative.
        OSError: If a file cannot be written.
    """
    source, target = Path(source).expanduser(), Path(target).expanduser()
    workers = resolve_workers(workers)
    if not source.is_dir():
        raise DatasetNotFoundError(f"Expected a folder of label maps, but {source} is not a folder")
    if source.resolve() == target.resolve():
        raise UserError(f"Expected argument `target` to be another folder than {source}")
    pairs = _find_pairs(source, target)

    def convert(pair: tuple[Path, Path]) -> None:
        _convert_file(*pair, ignore)

    with progress_bar(MofNCompleteColumn(), enabled=progress) as bar:
        task = bar.add_task("label maps", total=len(pairs))
        for _ in ordered_map(convert, pairs, workers):
            bar.advance(task)
    return len(pairs)


def _find_pairs(source: Path, target: Path) -> list[tuple[Path, Path]]:
    """Return the path of each label map with that of its target."""
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
