"""COCO 2017: photographs with instances of 80 classes, read from the published files."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as rle

from object_discovery.data.datamodule import SceneDataModule
from object_discovery.data.geometry import inner_square
from object_discovery.data.label_maps import count_labels
from object_discovery.data.readers.cache import Arrays, cached_arrays
from object_discovery.data.readers.image_files import read_image
from object_discovery.data.readers.photographs import Fit, PhotographSource, check_size
from object_discovery.data.readers.run_lengths import count_visible_masks, decode_run_lengths
from object_discovery.data.splits import PublishedSplit, Split, split_indices
from object_discovery.discovery import IGNORED
from object_discovery.errors import CorruptFileError, DatasetNotFoundError
from object_discovery.recommended import RECOMMENDED

NUM_VALIDATION = 5_000
"""How many of the training images validate."""
_MOST = IGNORED - 1  # labels that a map can hold
_FAR = 100_000  # pixels
_BLOCK = 1 << 17  # characters of run lengths that are unpacked at once


def index_annotations(path: Path) -> Arrays:
    """Read an annotation file of COCO into a few arrays, about half as large as the file.

    Args:
        path: A file as `instances_val2017.json`.

    Returns:
        For N images in the order of their ids `files` bytes `(N,)`, `sizes` int64 (height, width) `(N, 2)` and
        `first` int64 `(N + 1,)`: the annotations from `first[n]` to before `first[n + 1]` are those of image n. For
        each annotation `classes` uint8, `crowd` uint8 `(M,)` and `starts` int64 `(M + 1,)` of its run lengths, as
        pycocotools packs them, in `runs` uint8 `(R,)`. Classes are 1, 2, ... in the order of the category ids.

    Raises:
        DatasetNotFoundError: If there is no such file, or it may not be read.
        CorruptFileError: If it is damaged or of another kind.

    Example:
        >>> index_annotations(Path("instances_val2017.json"))
        Traceback (most recent call last):
        object_discovery.errors.DatasetNotFoundError: No such file: instances_val2017.json
    """
    try:
        with open(path, encoding="utf-8") as file:
            return _index(json.load(file, parse_constant=_refuse))
    except FileNotFoundError:
        raise DatasetNotFoundError(f"No such file: {path}") from None
    except PermissionError:
        raise DatasetNotFoundError(f"Cannot read {path}: permission denied") from None
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise CorruptFileError(
            f"{path}: expected the annotations of COCO's instances as JSON, but they cannot be read ({reason})"
        ) from None


def _index(content: dict[str, Any]) -> Arrays:
    categories = sorted({category["id"] for category in content["categories"]})
    if len(categories) > _MOST:
        raise ValueError(f"{len(categories)} categories are more than {_MOST}")
    classes = {category: number for number, category in enumerate(categories, start=1)}
    images = sorted(content["images"], key=lambda image: image["id"])
    annotations: dict[Any, list[tuple[int, int, bytes]]] = {image["id"]: [] for image in images}
    sizes = {image["id"]: (int(image["height"]), int(image["width"])) for image in images}
    for annotation in content["annotations"]:
        objects = annotations.get(annotation["image_id"])
        if objects is not None and annotation["segmentation"]:
            runs = _pack(annotation["segmentation"], sizes[annotation["image_id"]])
            if runs is not None:
                objects.append((classes[annotation["category_id"]], int(annotation.get("iscrowd", 0)), runs))
    flat = [one for objects in annotations.values() for one in objects]
    ends = np.cumsum([0, *(len(runs) for *_, runs in flat)], dtype=np.int64)
    return {
        "files": np.array([image["file_name"].encode() for image in images], np.bytes_),
        "sizes": np.array([sizes[image["id"]] for image in images], np.int64).reshape(-1, 2),
        "first": np.cumsum([0, *map(len, annotations.values())], dtype=np.int64),
        "classes": np.array([one[0] for one in flat], np.uint8),
        "crowd": np.array([one[1] for one in flat], np.uint8),
        "starts": ends,
        "runs": np.frombuffer(b"".join(runs for *_, runs in flat), np.uint8),
    }


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no coordinate")


def _pack(segmentation: Any, size: tuple[int, int]) -> bytes | None:
    """Turn polygons, or run lengths of either kind, into packed run lengths; pycocotools checks nothing by itself.

    Polygons of fewer than three corners are left out; None if no other remains.
    """
    if not isinstance(segmentation, dict):
        polygons = [polygon for polygon in segmentation if len(polygon) >= 6]
        if not all(-_FAR < corner < _FAR for polygon in polygons for corner in polygon):
            raise ValueError("expected polygons near the image")
        if not polygons:
            return None
        return bytes(rle.merge(rle.frPyObjects(polygons, *size))["counts"])
    counts = segmentation["counts"]
    packed = not isinstance(counts, list)
    runs = _unpack(counts.encode() if isinstance(counts, str) else bytes(counts)) if packed else counts
    if tuple(segmentation["size"]) != size or min(runs, default=0) < 0 or sum(runs) != size[0] * size[1]:
        raise ValueError(f"expected run lengths of {size[0]} x {size[1]} pixels")
    return bytes(rle.frPyObjects({"size": list(size), "counts": runs}, *size)["counts"])


def _unpack(counts: bytes) -> list[int]:
    """Unpack run lengths: groups of 5 bits in characters from 48 on, the third and later as a difference to two before.

    A group has a sixth bit if another follows; the last one holds the sign in its fifth bit.
    """
    runs: list[int] = []
    value = shift = 0
    for character in counts:
        group = character - 48
        value |= (group & 31) << shift
        shift += 5
        if not group & 32:
            value -= (group & 16) << (shift - 4)
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    return runs


def compose_maps(
    masks: Sequence[NDArray[np.uint8]], classes: Sequence[int], crowd: Sequence[int], size: tuple[int, int]
) -> dict[str, NDArray[np.uint8]]:
    """Turn the annotations of an image into label maps.

    Args:
        masks: A mask of 0 and 1 for each annotation, `(H, W)`.
        classes: Its class, 1 to 254.
        crowd: Whether it is a crowd, which is ignored and no object.
        size: Height and width.

    Returns:
        `mask`: the objects numbered in the given order; where two meet, and in crowds, 255. Of more than 254 objects
        the largest are kept, the others 255. `classes`: the class; where two classes meet, and in crowds, 255.

    Example:
        >>> masks = [np.array([[1, 1, 0, 0]], np.uint8), np.array([[0, 1, 1, 0]], np.uint8)]
        >>> maps = compose_maps(masks, [7, 7], [0, 0], (1, 4))
        >>> maps["mask"].tolist(), maps["classes"].tolist()
        ([[1, 255, 2, 0]], [[7, 7, 7, 0]])
    """
    labels, class_map = np.zeros(size[0] * size[1], np.uint8), np.zeros(size[0] * size[1], np.uint8)
    objects = [number for number, is_crowd in enumerate(crowd) if not is_crowd]
    kept = objects
    if len(objects) > _MOST:
        kept = sorted(objects, key=lambda number: int(masks[number].sum()), reverse=True)[:_MOST]
    label_of = {number: label for label, number in enumerate(sorted(kept), start=1)}
    for number in objects:
        covered = np.flatnonzero(masks[number].astype(bool))
        covered_labels, covered_classes = labels[covered], class_map[covered]
        labels[covered] = np.where(covered_labels == 0, label_of.get(number, IGNORED), IGNORED)
        same = (covered_classes == 0) | (covered_classes == classes[number])
        class_map[covered] = np.where(same, classes[number], IGNORED)
    for number, is_crowd in enumerate(crowd):
        if is_crowd:
            covered = np.flatnonzero(masks[number].astype(bool))
            labels[covered] = class_map[covered] = IGNORED
    return {"mask": labels.reshape(size), "classes": class_map.reshape(size)}


class COCOSource(PhotographSource):
    """Photographs of one folder, in the order of their ids, and their annotations.

    The annotation file is read once; what is needed of it is cached next to it or in the user's cache folder.

    Args:
        images: Folder of the photographs.
        annotations: Their annotation file.
        fit: How they become square. None: by their central square.
    """

    layout = "JPEG files and JSON annotations"

    def __init__(self, images: Path, annotations: Path, fit: Fit | None = None) -> None:
        super().__init__(fit)
        self.images = images
        self.annotations = annotations
        self._opened: Arrays | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}

    def __len__(self) -> int:
        return len(self._index["files"])

    @property
    def _index(self) -> Arrays:
        if self._opened is None:
            if not self.annotations.is_file():
                raise DatasetNotFoundError(f"No such file: {self.annotations}")
            self._opened = cached_arrays(self.annotations, "index", 1, lambda: index_annotations(self.annotations))
        return self._opened

    def image_files(self) -> list[Path]:
        """Return the files of the images."""
        return [self.images / name.decode() for name in self._index["files"]]

    def _size(self, index: int) -> tuple[int, int]:
        height, width = self._index["sizes"][index].tolist()
        return height, width

    def _image(self, index: int) -> NDArray[np.uint8]:
        path = self.images / self._index["files"][index].decode()
        image = read_image(path, exif=False)  # annotated as it is stored
        check_size(path, image.shape, self._size(index), self.annotations.name)
        return image

    def _maps(self, index: int) -> dict[str, NDArray[np.uint8]]:
        return self._compose(index)

    def _maps_without_crowds(self, index: int) -> dict[str, NDArray[np.uint8]]:
        return self._compose(index, crowds=False)

    def _compose(self, index: int, crowds: bool = True) -> dict[str, NDArray[np.uint8]]:
        arrays, size = self._index, self._size(index)
        first, last = arrays["first"][index : index + 2].tolist()
        starts = arrays["starts"][first : last + 1].tolist()
        runs = arrays["runs"][starts[0] : starts[-1]].tobytes()
        packed = [runs[start - starts[0] : end - starts[0]] for start, end in pairwise(starts)]
        masks = [rle.decode({"size": list(size), "counts": counts}).T for counts in packed]  # columns are contiguous
        classes, crowd = arrays["classes"][first:last].tolist(), arrays["crowd"][first:last].tolist()
        kept = [number for number, is_crowd in enumerate(crowd) if crowds or not is_crowd]
        masks, classes, crowd = ([values[number] for number in kept] for values in (masks, classes, crowd))
        maps = compose_maps(masks, classes, crowd, size[::-1])
        return {key: np.ascontiguousarray(values.T) for key, values in maps.items()}

    def _counts_source(self) -> tuple[Path, object]:
        return self.annotations, None

    def _count(self) -> NDArray[np.int64]:
        """Count the objects from the run lengths, many images at once: a few times as fast as label by label."""
        first, starts = self._index["first"], self._index["starts"]
        ends = np.searchsorted(starts[first], np.arange(_BLOCK, starts[-1] + _BLOCK, _BLOCK))
        blocks = [*np.unique(np.append(0, ends.clip(max=len(self)))).tolist(), len(self)]
        counts = np.concatenate([self._count_block(start, end) for start, end in pairwise(blocks)])
        objects = np.append(0, np.cumsum(self._index["crowd"] == 0))[first]
        for index in np.flatnonzero(np.diff(objects) > _MOST).tolist():  # not all of them have a label
            counts[index] = count_labels(self._fitted(self._maps(index)["mask"]))
        return counts

    def _count_block(self, start: int, end: int) -> NDArray[np.int64]:
        """Count the objects of the images from `start` to before `end`."""
        arrays = self._index
        first = arrays["first"][start : end + 1]
        starts = arrays["starts"][first[0] : first[-1] + 1]
        runs, masks = decode_run_lengths(arrays["runs"][starts[0] : starts[-1]], starts - starts[0])
        images, sizes = np.repeat(np.arange(end - start), np.diff(first)), arrays["sizes"][start:end]
        whole = [(0, 0, height, width) for height, width in sizes.tolist()]
        crops = np.array([inner_square(frame) for frame in whole] if self.fit == "crop" else whole).reshape(-1, 4)
        return count_visible_masks(runs, masks, arrays["crowd"][first[0] : first[-1]], images, sizes, crops)


class COCODataModule(SceneDataModule):
    """COCO 2017 (see `SceneDataModule` for sizes, filters and loaders).

    `data_root` holds `train2017`, `val2017` (or both in `images`) and `annotations/instances_{train,val}2017.json`.

    *Splits.* The images of `val2017` test, as is usual; so that nothing is chosen by them, the last 5,000 images of
    `train2017` in the order of their ids validate (15 % of it, if that is less) and the others train. Without
    `val2017` the training images are split 70 / 15 / 15 %; without `train2017` there is a test split only. Images
    without annotations are kept: they train, and what cannot be scored is left out of the scores.

    *Label maps.* `mask` numbers the instances of an image in the order of the annotation file; crowds and the pixels
    of several instances are 255, ignored, also where a crowd lies over an instance. Of more than 254 instances the
    largest are kept, the rest is ignored. `classes` holds 1 to 80 in the order of the category ids (which go up to 90
    with gaps); the pixels of several classes, and crowds, are ignored.

    *Shape.* `fit`: by default the central square, which is to resize the short side and to crop the centre; `squash`
    keeps the whole image. Images are resized bilinearly with antialiasing, label maps to the nearest pixel. Objects
    are counted after the crop, if there is a filter; the counts are cached.

    Reference:
        Lin et al., Microsoft COCO: Common Objects in Context, arXiv:1405.0312; the crop and mirroring are those of
        Seitzer et al., Bridging the Gap to Real-World Object-Centric Learning, arXiv:2209.14860.
    """

    name = "coco"
    recommended = RECOMMENDED["coco"]
    antialias = True

    def _find_splits(self, root: str) -> dict[str, Split]:
        train, test = (self._source(Path(root).expanduser(), f"{split}2017") for split in ("train", "val"))
        if train is None and test is None:
            raise DatasetNotFoundError(
                f"Expected argument `data_root` to be a folder with `train2017` or `val2017` of COCO, but got {root}; "
                f"{self.how_to_get}"
            )
        splits = {}
        if train is not None and test is None:
            indices, rule = split_indices(len(train), PublishedSplit(sys.maxsize, 0))
            return {split: Split(train, chosen, f"train2017, {rule}") for split, chosen in indices.items()}
        if train is not None:
            scenes = np.arange(len(train))
            held_out = min(NUM_VALIDATION, max(1, len(train) * 15 // 100))
            splits["train"] = Split(train, scenes[:-held_out], f"train2017 without the last {held_out:,}")
            splits["val"] = Split(train, scenes[-held_out:], f"the last {held_out:,} of train2017")
        if test is not None:
            splits["test"] = Split(test, np.arange(len(test)), "the whole of val2017")
        return splits

    def _source(self, root: Path, folder: str) -> COCOSource | None:
        """Find a folder of photographs and its annotations; None if there is no such folder."""
        images = next((parent / folder for parent in (root, root / "images") if (parent / folder).is_dir()), None)
        if images is None:
            return None
        annotations = root / "annotations" / f"instances_{folder}.json"
        if not annotations.is_file():
            raise DatasetNotFoundError(f"Expected the annotations of {images} in {annotations}, but there is no file")
        return COCOSource(images, annotations, self.params.fit)
