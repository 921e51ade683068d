"""Summary of a dataset on disk: name, number and size of images, splits, and object counts."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
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
from object_discovery.data.conversion.tfrecords_to_hdf5 import convert_tfrecord
from object_discovery.data.datasets.shapes3d import Shapes3DFile
from object_discovery.data.inspect.recognition import find_records, recognise
from object_discovery.data.label_maps import count_labels
from object_discovery.data.readers.hdf5_scenes import SceneFile
from object_discovery.data.readers.source import SceneSource
from object_discovery.data.splits import Split
from object_discovery.errors import CorruptFileError, DatasetNotFoundError, UserError
from object_discovery.params import DataParams
from object_discovery.visualization.contact_sheet import Example

_MAX_WARNINGS = 5


@dataclass(frozen=True)
class Description:
    """Summary of a dataset in a file or folder."""

    root: Path
    """The file or folder."""
    dataset: str
    """Name of the dataset."""
    variant: str | None
    """Variant of the dataset, if it has several."""
    layout: str
    """How the images are stored."""
    splits: dict[str, tuple[int, str]]
    """Number of images of each split, and the rule that selects them."""
    exact: bool
    """Whether the numbers of images are exact; otherwise they are estimated from the size of the file."""
    sizes: list[tuple[int, int]]
    """Different heights and widths of the examples, sorted."""
    maps: list[str]
    """Names of the label maps."""
    targets: dict[str, tuple[int, ...]]
    """Shapes of other targets of a scene by name."""
    counts: NDArray[np.int64]
    """Number of objects in the whole image, of the N scenes that were counted, `(N,)`."""
    examples: list[Example]
    """Evenly spaced scenes."""
    broken: list[str]
    """Error message of each file that was opened and cannot be read."""

    @property
    def num_images(self) -> int:
        """Number of images in all splits."""
        return sum(size for size, _ in self.splits.values())


def describe(
    root: str | Path, dataset: str | None = None, variant: str | None = None, num: int = 16, sample: int = 256
) -> Description:
    """Summarise a dataset on disk.

    Args:
        root: File or folder of the dataset.
        dataset: Name of the dataset. None: recognised by the layout, see `recognise`.
        variant: Variant of the dataset. None: the first variant whose files exist.
        num: Number of examples to read, at least 1.
        sample: Number of scenes whose objects are counted, where the files do not store the counts; at least 1.

    Returns:
        The summary.

    Raises:
        DatasetNotFoundError: If the file or folder does not exist, its layout is not recognised, or `dataset` is not
            the name of a dataset.
        CorruptFileError: If no example can be read; other broken files are listed in `Description.broken`.
        UserError: If the splits cannot be determined.
        ValueError: If `num` or `sample` is below 1.

    Example:
        >>> describe("no/such/folder")
        Traceback (most recent call last):
        object_discovery.errors.DatasetNotFoundError: No such file or folder: no/such/folder
    """
    for argument, value in (("num", num), ("sample", sample)):
        if value < 1:
            raise ValueError(f"Expected argument `{argument}` to be at least 1, but got {value}")
    if dataset not in (None, *DATASETS):
        names = ", ".join(sorted(DATASETS))
        raise DatasetNotFoundError(f"Expected argument `dataset` to be one of {names}, but got {dataset!r}")
    root = Path(root).expanduser()
    records = find_records(root)
    if records:
        return _describe_records(records, dataset, num, sample)
    if root.is_dir() and not any(root.iterdir()):
        raise DatasetNotFoundError(f"Expected {root} to hold a dataset, but it is empty")
    name = dataset or recognise(root)
    if name is None or name not in DATASETS:
        names = ", ".join(sorted(DATASETS))
        raise DatasetNotFoundError(
            f"Expected {root} to hold a dataset, but its layout is not known: give `--dataset` with one of {names}"
        )
    data = DATASETS[name](DataParams(dataset=name, data_root=str(root), variant=variant, fit="squash"))
    splits = {key: split for key, split in data.splits.items() if len(split.indices)}
    if not splits:
        raise DatasetNotFoundError(f"Expected images of {name} in {root}, but found none")
    return _describe_splits(root, (name, data.variant), splits, num, sample)


def _describe_records(path: Path, dataset: str | None, num: int, sample: int) -> Description:
    """Summarise a TFRecord file by converting its first scenes; the number of scenes is estimated from its size."""
    with tempfile.TemporaryDirectory() as folder:
        limit = max(num, sample)
        converted = convert_tfrecord(path, Path(folder, "sample.h5"), dataset, limit=limit, progress=False)
        *_, last = islice(read_records(path, check=False), converted)
        is_whole = converted < limit
        estimate = max(converted, round(converted * path.stat().st_size / last.consumed))
        size = converted if is_whole else estimate
        rule = "not split yet: convert it once by `object-discovery convert records`"
        file = SceneFile(Path(folder, "sample.h5"))
        splits = {"all": Split(file, np.arange(converted), rule)}
        description = _describe_splits(path, (file.dataset or "", file.variant), splits, num, sample)
        file.close()
    return replace(description, layout="TFRecord", splits={"all": (size, rule)}, exact=is_whole)


def _describe_splits(
    root: Path, name: tuple[str, str | None], splits: dict[str, Split], num: int, sample: int
) -> Description:
    broken: dict[str, None] = {}
    examples: list[Example] = []
    first: tuple[SceneSource, int] | None = None
    for source, index in _sample_evenly(list(splits.values()), num):
        try:
            examples.append(_read_example(source, index))
            first = first or (source, index)
        except CorruptFileError as error:
            broken[str(error)] = None
    if first is None:
        raise CorruptFileError(next(iter(broken)))
    source, index = first
    counts = _count_objects(splits, sample, broken)
    return Description(
        root=root,
        dataset=name[0],
        variant=name[1],
        layout=source.layout,
        splits={key: (len(split.indices), split.rule) for key, split in splits.items()},
        exact=True,
        sizes=sorted({(example.image.shape[0], example.image.shape[1]) for example in examples}),
        maps=list(source.maps(index)),
        targets={key: values.shape for key, values in source.targets(index).items()},
        counts=counts,
        examples=examples,
        broken=list(broken),
    )


def _sample_evenly(splits: Sequence[Split], num: int) -> Iterator[tuple[SceneSource, int]]:
    """Yield evenly spaced scenes of all splits, including the first and the last, as source and index."""
    starts = np.cumsum([0, *(len(split.indices) for split in splits)])
    positions = np.unique(np.linspace(0, starts[-1] - 1, min(num, int(starts[-1]))).round().astype(int))
    for position in positions.tolist():
        number = int(np.searchsorted(starts, position, side="right")) - 1
        yield splits[number].source, int(splits[number].indices[position - starts[number]])


def _read_example(source: SceneSource, index: int) -> Example:
    if isinstance(source, Shapes3DFile):  # as stored, without the rearranged copy that training uses
        return Example(source.file.row("images", index), None)
    return Example(source.image(index), source.maps(index).get("mask"))


def _count_objects(splits: dict[str, Split], sample: int, broken: dict[str, None]) -> NDArray[np.int64]:
    """Count the objects of all scenes where the files store the counts, else of a sample; extend `broken`."""
    counts = [np.empty(0, np.int64)]
    uncounted = []
    for split in splits.values():
        source = split.source
        try:
            if _has_masks(split) and not _has_counts(source):
                uncounted.append(split)
                continue
            counts.append(np.asarray(source.object_counts())[split.indices])
        except CorruptFileError as error:
            broken[str(error)] = None
        except DatasetNotFoundError:
            raise
        except UserError:  # the objects of this dataset cannot be counted
            continue
    for source, index in _sample_evenly(uncounted, sample) if uncounted else ():
        try:
            counts.append(np.array([count_labels(source.maps(index)["mask"])]))
        except CorruptFileError as error:
            broken[str(error)] = None
    return np.concatenate(counts)


def _has_masks(split: Split) -> bool:
    """Return whether the first readable scene of a split has a label map."""
    for index in split.indices.tolist():
        with suppress(CorruptFileError):
            return "mask" in split.source.maps(index)
    return False


def _has_counts(source: SceneSource) -> bool:
    """Return whether a file stores the object counts of the whole image."""
    if not isinstance(source, SceneFile):
        return False
    with h5py.File(source.path, "r") as file:
        return "counts/frame" in file


def show(description: Description, console: Console | None = None) -> None:
    """Print a summary as tables, and a warning for each broken file (at most five).

    Args:
        description: The summary.
        console: Rich console. None: standard output, and standard error for the warnings.
    """
    warnings = console or Console(highlight=False, stderr=True)
    console = console or Console(highlight=False)
    facts = Table(box=box.SIMPLE, show_header=False)
    maps = ", ".join(description.maps) or "none: only the reconstruction can be scored"
    about = "" if description.exact else "about "
    rows = {
        "dataset": description.dataset + (f", variant {description.variant}" if description.variant else ""),
        "layout": description.layout,
        "images": f"{about}{description.num_images:,}",
        "size (H x W)": _size_text(description),
        "label maps": maps,
        "targets": ", ".join(f"{name} {shape}" for name, shape in description.targets.items()) or "none",
    }
    for name, value in rows.items():
        facts.add_row(name, escape(value))
    splits = Table("split", "images", "chosen", box=box.SIMPLE)
    for split, (size, rule) in description.splits.items():
        splits.add_row(split, f"{about}{size:,}", escape(rule))
    console.print(str(description.root), soft_wrap=True, markup=False)
    for table in (facts, splits, _histogram(description)):
        console.print(table)
    for message in description.broken[:_MAX_WARNINGS]:
        warnings.print(f"warning: {message}", soft_wrap=True, markup=False)
    if len(description.broken) > _MAX_WARNINGS:
        warnings.print(f"warning: {len(description.broken) - _MAX_WARNINGS} more files cannot be read")


def _size_text(description: Description) -> str:
    low, high = (" x ".join(map(str, size)) for size in (description.sizes[0], description.sizes[-1]))
    if low == high:
        return low
    return f"{len(description.sizes)} different, such as {low} and {high} (of {len(description.examples)} images)"


def _histogram(description: Description) -> Table | str:
    """Return a bar chart of the numbers of objects."""
    size, total = len(description.counts), description.num_images
    if not size:
        return "objects: not known\n"
    scope = "all scenes" if size == total else f"{size:,} of {'' if description.exact else 'about '}{total:,} scenes"
    table = Table("objects", "scenes", "share", box=box.SIMPLE, title=f"objects in {scope}", title_justify="left")
    for count, scenes in enumerate(np.bincount(description.counts)):
        if scenes:
            table.add_row(str(count), f"{scenes:,}", f"{scenes / size:6.1%} " + "█" * round(30 * scenes / size))
    return table
