"""Download a dataset: fetch its files one after another, unpack the archives, print the next step."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.progress import (
    DownloadColumn,
    TaskID,
    TransferSpeedColumn,
)

from object_discovery.download.fetch import Watch, fetch, part_note
from object_discovery.download.sources import RemoteFile, Source, find_source
from object_discovery.download.unpack import unpack
from object_discovery.errors import DatasetNotFoundError, UserError
from object_discovery.files import atomic_write
from object_discovery.progress import progress_bar


def download(
    name: str,
    root: str | os.PathLike[str],
    variant: str | None = None,
    split: str | None = None,
    url: str | None = None,
    keep: bool = False,
    verify: bool = True,
    progress: bool = True,
) -> list[str]:
    """Download a dataset, or what is missing of it.

    Complete files are kept; a file `NAME.done` next to an archive marks it as unpacked.

    Args:
        name: Name of the dataset, one of `SOURCES`.
        root: Folder to put it in; made if missing.
        variant: Variant, or `all`. None: the default one.
        split: Split, or `all`. None: all.
        url: Address of a mirror that has all files in one folder. None: the published hosts.
        keep: Keep archives that are unpacked.
        verify: Check sizes and published checksums; leave it on unless a mirror has repacked the files.
        progress: Show a progress bar on a terminal.

    Returns:
        Lines for the user: what is there now, and the commands that convert it.

    Raises:
        DatasetNotFoundError: If there is no such dataset, or its host does not have a file.
        CorruptFileError: If a file is damaged or not safe to unpack; nothing of it is left behind.
        UserError: If there is no such choice, or the network or the disk fails; run again to go on.
    """
    source, root = find_source(name), Path(root)
    files = source.select(variant, split)
    if source.by_hand:
        raise UserError(f"{name} must be downloaded by hand: {source.by_hand}; put them into {root}; see {source.page}")
    if url is not None and not url.startswith(("http://", "https://")):
        raise UserError(f"Expected argument `url` to begin with http:// or https://, but got {url!r}")
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"Cannot make the folder {root}: {error.strerror}") from None
    lines = []
    for file in files:
        job = _Job(file, root, source, keep)
        with _bar(file.name, progress) as watch:
            lines.append(f"{file.name}: {job.run(url, verify, watch)}")
    if name == "voc" and any(file.piece for file in files):
        lines.append(f"{write_trainaug(root)}: {_TRAINAUG} images")
    converted = [root / file.name for file in files if file.name.endswith(".tfrecords")]
    return lines + [_conversion(path) for path in converted]


class _Job:
    """One file of a dataset, on its way from the host to the disk."""

    def __init__(self, file: RemoteFile, root: Path, source: Source, keep: bool) -> None:
        self.file, self.source, self.keep = file, source, keep
        self.path = root / file.name
        self.folder = root / source.folder
        self.note = root / f"{file.name}.done"

    def run(self, mirror: str | None, verify: bool, watch: Watch) -> str:
        """Perform the missing steps and report them."""
        if self.file.is_archive and self._is_unpacked():
            if not self.keep:
                self._remove()
            return "already there"
        fetched = not self.path.exists()
        if fetched or part_note(self.path).exists():  # a note that stayed is removed
            self._fetch(mirror, verify, watch)
        if not self.file.is_archive:
            return "downloaded" if fetched else "already there"
        names = unpack(self.path, self.folder, watch)
        try:
            with atomic_write(self.note) as temporary:
                temporary.write_text(json.dumps({"keep": self.keep, "unpacked": names}))
        except OSError as error:
            raise UserError(f"Cannot write {self.note}: {error.strerror}; run again to go on") from None
        self._remove()
        return f"unpacked into {self.folder}"

    def _fetch(self, mirror: str | None, verify: bool, watch: Watch) -> None:
        checksum = self.file.checksum if verify else None
        size = self.file.size if checksum else None
        url = f"{mirror.rstrip('/')}/{self.file.name}" if mirror else self.file.url
        try:
            fetch(url, self.path, size, checksum, watch)
        except DatasetNotFoundError as error:
            raise DatasetNotFoundError(f"{error}; see {self.source.page} or give a mirror by --url") from None

    def _is_unpacked(self) -> bool:
        """Whether the note is there, and what it speaks of."""
        try:
            return all((self.folder / name).exists() for name in json.loads(self.note.read_text())["unpacked"])
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def _remove(self) -> None:
        """Remove the archive, unless it was to be kept."""
        if not json.loads(self.note.read_text()).get("keep"):
            self.path.unlink(missing_ok=True)


_TRAINAUG = 10_582


def write_trainaug(root: Path) -> Path:
    """Write the list `trainaug` of VOC: the training images of VOC and all of SBD but VOC's validation images.

    Args:
        root: Folder in which both are unpacked.

    Returns:
        The list, in the folder of the lists of VOC.

    Raises:
        UserError: If the two are not as expected.
    """
    lists = root / "VOCdevkit" / "VOC2012" / "ImageSets" / "Segmentation"
    more = root / "benchmark_RELEASE" / "dataset"
    try:
        train, val = (set((lists / f"{split}.txt").read_text().split()) for split in ("train", "val"))
        added = {name for split in ("train", "val") for name in (more / f"{split}.txt").read_text().split()}
    except OSError as error:
        raise UserError(f"Cannot list the images of trainaug: {error.filename}: {error.strerror}") from None
    names = (train | added) - val
    if len(names) != _TRAINAUG:
        raise UserError(
            f"Expected {_TRAINAUG} images in trainaug of {root}, but got {len(names)}; remove it and run again"
        )
    path = lists / "trainaug.txt"
    with atomic_write(path) as temporary:
        temporary.write_text("".join(f"{name}\n" for name in sorted(names)))
    return path


def _conversion(path: Path) -> str:
    target = path.with_suffix(".h5")
    return "convert: " + shlex.join(["object-discovery", "convert", "records", str(path), str(target)])


@contextmanager
def _bar(name: str, progress: bool) -> Iterator[Watch]:
    """Show how far a file is, on a terminal."""
    bar = progress_bar(DownloadColumn(), TransferSpeedColumn(), enabled=progress)
    tasks: dict[str, TaskID] = {}

    def watch(stage: str, done: int, size: int) -> None:
        if stage not in tasks:
            for task in tasks.values():
                bar.remove_task(task)
            tasks.clear()
            tasks[stage] = bar.add_task(f"{stage} {name}", total=size, completed=done)
        bar.update(tasks[stage], completed=done, total=size)

    with bar:
        yield watch
