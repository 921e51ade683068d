"""Summary of a file or folder of images: the dataset, the number and size of its images, splits and objects."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from object_discovery.data import DATASETS
from object_discovery.data.conversion.tfrecord import read_records
from object_discovery.data.conversion.tfrecords_to_hdf5 import convert
from object_discovery.data.datasets.shapes3d import Shapes3DFile
from object_discovery.data.inspect.recognition import find_records, recognise
from object_discovery.data.label_maps import count_labels
from object_discovery.data.readers.hdf5_scenes import SceneFile
from object_discovery.data.readers.source import SceneSource
from object_discovery.data.splits import Split
from object_discovery.errors import CorruptFileError, DatasetNotFoundError, UserError
from object_discovery.params import DataParams
from object_discovery.visualization.contact_sheet import Example

_MOST_WARNINGS = 5


@dataclass(frozen=True)
class Description:
    """What a file or folder holds."""

    root: Path
    """The file or folder."""
    dataset: str
    """Name of the dataset."""
    variant: str | None
    """Variant of the dataset, where it has several."""
    layout: str
    """How the images are stored."""
    splits: dict[str, tuple[int, str]]
    """For each split its number of images and how it was chosen."""
    exact: bool
    """Whether the numbers of images are exact, or guessed from the size of the file."""
    sizes: list[tuple[int, int]]
    """Heights and widths of the examples, each once, sorted."""
    maps: list[str]
    """Names of the label maps."""
    targets: dict[str, tuple[int, ...]]
    """Name and shape of what else is known of a scene."""
    counts: NDArray[np.int64]
    """Objects of the scenes that were counted, in the whole frame, `(N,)`."""
    examples: list[Example]
    """Some scenes, evenly spaced."""
    broken: list[str]
    """A message for each file that cannot be read, of those that were looked at."""

    @property
    def num_images(self) -> int:
        """Number of images in all splits."""
        return sum(size for size, _ in self.splits.values())


def describe(
    root: str | Path, dataset: str | None = None, variant: str | None = None, num: int = 16, sample: int = 256
) -> Description:
    """Look at a file or folder of any dataset.

    Args:
        root: The file or folder.
        dataset: Name of the dataset. None: recognised by the layout.
        variant: Variant of the dataset. None: the first that is there.
        num: Examples to read.
        sample: Scenes to count the objects of, where not all numbers are written down.

    Returns:
        What is there.

    Raises:
        DatasetNotFoundError: If there is no such file, folder or dataset, or nothing known is there.
        CorruptFileError: If no example can be read; single broken files are listed in `Description.broken`.
        UserError: If the splits cannot be found.
        ValueError: If `num` or `sample` is below 1.

    Example:
        >>> describe("no/such/folder")
        Traceback (most recent call last):
        object_discovery.errors.DatasetNotFoundError: No such file or folder: no/such/folder
    """
    for name, value in (("num", num), ("sample", sample)):
        if value < 1:
            raise ValueError(f"Expected argument `{name}` to be at least 1, but got {value}")
    if dataset not in (None, *DATASETS):
        names = ", ".join(sorted(DATASETS))
        raise DatasetNotFoundError(f"Expected argument `dataset` to be one of {names}, but got {dataset!r}")
    root = Path(root).expanduser()
    records = find_records(root)
    if records:
        return _describe_records(records, dataset, num, sample)
    known = dataset or recognise(root)
    if known is None or known not in DATASETS:
        names = ", ".join(sorted(DATASETS))
        raise DatasetNotFoundError(
            f"Expected {root} to hold a dataset, but its layout is not known: give `--dataset` with one of {names}"
        )
    data = DATASETS[known](DataParams(dataset=known, data_root=str(root), variant=variant, fit="squash"))
    splits = {split: found for split, found in data.splits.items() if len(found.indices)}
    if not splits:
        raise DatasetNotFoundError(f"Expected images of {known} in {root}, but found none")
    return _describe_splits(root, (known, data.variant), splits, num, sample)


def _describe_records(path: Path, dataset: str | None, num: int, sample: int) -> Description:
    """Convert the first scenes of a TFRecord file, and estimate their number from its size."""
    with tempfile.TemporaryDirectory() as folder:
        limit = max(num, sample)
        seen = convert(path, Path(folder, "sample.h5"), dataset, limit=limit, progress=False)
        *_, last = islice(read_records(path, check=False), seen)
        size = seen if seen < limit else max(seen, round(seen * path.stat().st_size / last.consumed))
        rule = "not split yet: convert it once by `object-discovery convert records`"
        file = SceneFile(Path(folder, "sample.h5"))
        splits = {"all": Split(file, np.arange(seen), rule)}
        found = _describe_splits(path, (file.dataset or "", file.variant), splits, num, sample)
        file.close()
    fields = {**vars(found), "layout": "TFRecord", "splits": {"all": (size, rule)}, "exact": seen < limit}
    return Description(**fields)


def _describe_splits(
    root: Path, name: tuple[str, str | None], splits: dict[str, Split], num: int, sample: int
) -> Description:
    broken: dict[str, None] = {}
    shown: list[Example] = []
    first: tuple[SceneSource, int] | None = None
    for source, index in _spread(list(splits.values()), num):
        try:
            shown.append(_example(source, index))
            first = first or (source, index)
        except CorruptFileError as error:
            broken[str(error)] = None
    if first is None:
        raise CorruptFileError(next(iter(broken)))
    source, index = first
    counts = _counts(splits, sample, broken)
    return Description(
        root=root,
        dataset=name[0],
        variant=name[1],
        layout=source.layout,
        splits={split: (len(found.indices), found.rule) for split, found in splits.items()},
        exact=True,
        sizes=sorted({(example.image.shape[0], example.image.shape[1]) for example in shown}),
        maps=list(source.maps(index)),
        targets={key: values.shape for key, values in source.targets(index).items()},
        counts=counts,
        examples=shown,
        broken=list(broken),
    )


def _spread(splits: Sequence[Split], most: int) -> Iterator[tuple[SceneSource, int]]:
    """Choose scenes at even distances over all splits, the first and the last among them."""
    ends = np.cumsum([0, *(len(split.indices) for split in splits)])
    chosen = np.unique(np.linspace(0, ends[-1] - 1, min(most, int(ends[-1]))).round().astype(int))
    for place in chosen.tolist():
        number = int(np.searchsorted(ends, place, side="right")) - 1
        yield splits[number].source, int(splits[number].indices[place - ends[number]])


def _example(source: SceneSource, index: int) -> Example:
    if isinstance(source, Shapes3DFile):  # as it is stored, without the copy that training makes
        return Example(source.file.row("images", index), None)
    return Example(source.image(index), source.maps(index).get("mask"))


def _counts(splits: dict[str, Split], sample: int, broken: dict[str, None]) -> NDArray[np.int64]:
    """Count the objects of all scenes where the files state them, else of a sample; add broken files to `broken`."""
    counts = [np.empty(0, np.int64)]
    to_count = []
    for split in splits.values():
        source = split.source
        try:
            if _has_masks(split) and not _is_counted(source):
                to_count.append(split)
                continue
            counts.append(np.asarray(source.object_counts())[split.indices])
        except CorruptFileError as error:
            broken[str(error)] = None
        except DatasetNotFoundError:
            raise
        except UserError:  # the files do not state their number
            continue
    for source, index in _spread(to_count, sample) if to_count else ():
        try:
            counts.append(np.array([count_labels(source.maps(index)["mask"])]))
        except CorruptFileError as error:
            broken[str(error)] = None
    return np.concatenate(counts)


def _has_masks(split: Split) -> bool:
    """Whether the first scene of a split that can be read has a label map."""
    for index in split.indices.tolist():
        with suppress(CorruptFileError):
            return "mask" in split.source.maps(index)
    return False


def _is_counted(source: SceneSource) -> bool:
    """Whether the file says how many pixels each object has."""
    if not isinstance(source, SceneFile):
        return False
    with h5py.File(source.path, "r") as file:
        return "counts/frame" in file


def show(found: Description, console: Console | None = None) -> None:
    """Print a description as tables.

    Args:
        found: The description.
        console: Where to print. None: standard output.
    """
    console = console or Console(highlight=False)
    facts = Table(box=box.SIMPLE, show_header=False)
    maps = ", ".join(found.maps) or "none: only the reconstruction can be scored"
    about = "" if found.exact else "about "
    rows = {
        "dataset": found.dataset + (f", variant {found.variant}" if found.variant else ""),
        "layout": found.layout,
        "images": f"{about}{found.num_images:,}",
        "size (H x W)": _size_text(found),
        "label maps": maps,
        "targets": ", ".join(f"{name} {shape}" for name, shape in found.targets.items()) or "none",
    }
    for name, value in rows.items():
        facts.add_row(name, escape(value))
    splits = Table("split", "images", "chosen", box=box.SIMPLE)
    for split, (size, rule) in found.splits.items():
        splits.add_row(split, f"{about}{size:,}", escape(rule))
    console.print(str(found.root), soft_wrap=True, markup=False)
    for table in (facts, splits, _histogram(found)):
        console.print(table)
    for message in found.broken[:_MOST_WARNINGS]:
        console.print(f"warning: {message}", soft_wrap=True, markup=False)
    if len(found.broken) > _MOST_WARNINGS:
        console.print(f"warning: {len(found.broken) - _MOST_WARNINGS} more files cannot be read")


def _size_text(found: Description) -> str:
    low, high = (" x ".join(map(str, size)) for size in (found.sizes[0], found.sizes[-1]))
    if low == high:
        return low
    return f"{len(found.sizes)} different, such as {low} and {high} (of {len(found.examples)} images)"


def _histogram(found: Description) -> Table | str:
    """Plot a histogram of the numbers of objects."""
    size, total = len(found.counts), found.num_images
    if not size:
        return "objects: not known\n"
    which = "all scenes" if size == total else f"{size:,} of {'' if found.exact else 'about '}{total:,} scenes"
    table = Table("objects", "scenes", "share", box=box.SIMPLE, title=f"objects in {which}", title_justify="left")
    for count, scenes in enumerate(np.bincount(found.counts)):
        if scenes:
            table.add_row(str(count), f"{scenes:,}", f"{scenes / size:6.1%} " + "█" * round(30 * scenes / size))
    return table
