"""Pascal VOC 2012: photographs with instances of 20 classes, read from the published files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from object_discovery.data.datamodule import SceneDataModule
from object_discovery.data.readers.image_files import read_image, read_image_size, read_label_map
from object_discovery.data.readers.photographs import Fit, PhotographSource, check_size, file_states
from object_discovery.data.splits import Split
from object_discovery.discovery import IGNORED
from object_discovery.errors import CorruptFileError, DatasetNotFoundError
from object_discovery.recommended import RECOMMENDED

_LISTS = Path("ImageSets", "Segmentation")
_INSTANCES = "SegmentationObject"
_CLASSES = ("SegmentationClass", "SegmentationClassAug")


class VOCSource(PhotographSource):
    """Photographs of a list, and their label maps, if any.

    Args:
        root: Folder with `JPEGImages` and `SegmentationObject`.
        names: Names of the photographs, without ending.
        annotated: Whether each has its label maps. False: without label maps all pixels are ignored.
        fit: How they become square. None: by their central square.
    """

    layout = "JPEG files and PNG label maps"

    def __init__(self, root: Path, names: Sequence[str], annotated: bool = True, fit: Fit | None = None) -> None:
        super().__init__(fit)
        self.root = root
        self.names = list(names)
        self.annotated = annotated

    def __len__(self) -> int:
        return len(self.names)

    def image_files(self) -> list[Path]:
        """Return the files of the images."""
        return [self._path(index) for index in range(len(self))]

    def _path(self, index: int) -> Path:
        return self.root / "JPEGImages" / f"{self.names[index]}.jpg"

    def _image(self, index: int) -> NDArray[np.uint8]:
        return read_image(self._path(index), exif=False)  # annotated as it is stored

    def _maps(self, index: int) -> dict[str, NDArray[np.uint8]]:
        size = read_image_size(self._path(index), exif=False)
        return {"mask": self._map(index, size, _INSTANCES), "classes": self._map(index, size, *_CLASSES)}

    def _instances(self, index: int) -> NDArray[np.uint8]:
        return self._map(index, read_image_size(self._path(index), exif=False), _INSTANCES)

    def _map(self, index: int, size: tuple[int, int], *folders: str) -> NDArray[np.uint8]:
        """Read a label map from the first folder that has it."""
        paths = [self.root / folder / f"{self.names[index]}.png" for folder in folders]
        path = next((path for path in paths if path.exists()), None)
        if path is None and not self.annotated:
            return np.full(size, IGNORED, np.uint8)
        labels = read_label_map(path or paths[0])
        check_size(path or paths[0], labels.shape, size, "its image")
        return labels

    def _counted(self) -> tuple[Path, object]:
        folder = self.root / _INSTANCES
        return self.root / "JPEGImages", file_states(folder / f"{name}.png" for name in self.names)


class VOCDataModule(SceneDataModule):
    """Pascal VOC 2012 (see `SceneDataModule` for sizes, filters and loaders).

    `data_root` is `VOC2012`, or a folder that holds it or `VOCdevkit/VOC2012`: `JPEGImages`, `SegmentationObject`,
    `SegmentationClass` and `ImageSets/Segmentation/{trainaug,val}.txt`.

    *Splits.* The 1,449 images of `val.txt` test, as is usual. The 10,582 images of `trainaug.txt`, or where that is
    missing the 1,464 of `train.txt`, train, but for the last 15 % of those with instances (219 images), in the order
    of the list: these validate, so that nothing is chosen by the test images.

    *Label maps.* `mask` numbers the instances, `classes` holds 1 to 20; the borders of objects are 255, ignored. Most
    images of `trainaug.txt` have no instances: there `mask` is 255 everywhere, and so is `classes` unless
    `SegmentationClassAug` has it. They train as any other, but count as without objects in filters.

    *Shape.* `fit`: by default the central square; `squash` keeps the whole image. Images are resized bilinearly with
    antialiasing, label maps to the nearest pixel.

    Reference:
        Everingham et al., The Pascal Visual Object Classes Challenge, IJCV 2010; Hariharan et al., Semantic Contours
        from Inverse Detectors, ICCV 2011 (`trainaug`).
    """

    name = "voc"
    recommended = RECOMMENDED["voc"]
    antialias = True

    def _find_splits(self, root: str) -> dict[str, Split]:
        folder = _find_folder(Path(root).expanduser(), self.how_to_get)
        lists = {name: _read_list(folder / _LISTS / f"{name}.txt") for name in ("trainaug", "train", "val")}
        listed = next((name for name in ("trainaug", "train") if lists[name]), None)
        tested = lists["val"]
        if listed is None and not tested:
            raise DatasetNotFoundError(
                f"Expected trainaug.txt, train.txt or val.txt in {folder / _LISTS}, but got none"
            )
        splits: dict[str, Split] = {}
        if listed is not None:
            excluded = set(tested)
            names = [name for name in lists[listed] if name not in excluded]
            annotated = [name for name in names if (folder / _INSTANCES / f"{name}.png").is_file()]
            count = max(1, len(annotated) * 15 // 100) if len(annotated) > 1 else 0
            held_out = annotated[len(annotated) - count :]
            images = "image" if count == 1 else f"{count:,} images"
            what = f"the last {images} of {listed}.txt with instances"
            excluded = set(held_out)
            trained = [name for name in names if name not in excluded]
            splits["train"] = self._split_of(folder, trained, False, f"{listed}.txt without {what}")
            if held_out:
                splits["val"] = self._split_of(folder, held_out, True, what)
        if tested:
            splits["test"] = self._split_of(folder, tested, True, "the whole of val.txt")
        return splits

    def _split_of(self, folder: Path, names: list[str], annotated: bool, rule: str) -> Split:
        return Split(VOCSource(folder, names, annotated, self.params.fit), np.arange(len(names)), rule)


def _find_folder(root: Path, how_to_get: str) -> Path:
    for folder in (root, root / "VOC2012", root / "VOCdevkit" / "VOC2012"):
        if (folder / "JPEGImages").is_dir():
            return folder
    raise DatasetNotFoundError(
        f"Expected argument `data_root` to be the folder VOC2012 with `JPEGImages`, or one that holds it, but got "
        f"{root}; {how_to_get}"
    )


def _read_list(path: Path) -> list[str]:
    """Read the names of a list, one a line, bare or as paths of the image and its map; none if there is no file."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    except PermissionError:
        raise DatasetNotFoundError(f"Cannot read {path}: permission denied") from None
    except (OSError, UnicodeDecodeError) as error:
        raise CorruptFileError(f"{path}: expected a list of images, but it cannot be read ({error})") from None
    return [Path(line.split()[0]).stem for line in lines if line.strip()]
