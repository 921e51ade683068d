"""ClevrTex: objects with textures on grounds with textures, 240 x 320 pixels, read from the published folders."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from object_discovery.data.datamodule import SceneDataModule
from object_discovery.data.datasets.clevr import central_crop, check_frame
from object_discovery.data.geometry import Crop
from object_discovery.data.readers.image_files import read_image, read_label_map
from object_discovery.data.readers.index import cached_integers, list_files
from object_discovery.data.readers.source import SceneSource
from object_discovery.data.splits import Split
from object_discovery.discovery import IGNORED
from object_discovery.errors import CorruptFileError, DatasetNotFoundError, UserError
from object_discovery.recommended import RECOMMENDED

VARIANTS = ("full", "outd", "camo", "pbg", "vbg", "grassbg")
"""The published variants."""
_PUBLISHED_SIZES = {"full": 50_000, "outd": 10_000}
_FILE = rf"CLEVRTEX_({'|'.join(VARIANTS)})_(\d{{6}})(\.png|_flat\.png|\.json)"
_SUFFIXES = (".png", "_flat.png", ".json")


class SceneIndex(NamedTuple):
    """The scenes of a folder, N of them, in the order of their numbers."""

    stems: NDArray[np.str_]
    """Their files within the folder without the endings, as `0/CLEVRTEX_full_000000`, `(N,)`."""
    whole: NDArray[np.bool_]
    """Which of them have an image, a label map (`_flat.png`) and a description (`.json`), `(N,)`."""


def index_scenes(folder: Path) -> dict[str, SceneIndex]:
    """Find the scenes of a folder of ClevrTex, without opening any of their files.

    Args:
        folder: The folder, which holds the scenes or has subfolders that do, as `0` to `49`.

    Returns:
        The scenes of each variant that there is.

    Raises:
        DatasetNotFoundError: If there is no such folder.
        CorruptFileError: If two scenes have the same number.

    Example:
        >>> index_scenes(Path("clevrtex_full"))
        Traceback (most recent call last):
        object_discovery.errors.DatasetNotFoundError: Cannot list clevrtex_full: No such file or directory
    """
    scenes: dict[str, dict[str, int]] = {}
    for path in list_files(folder, _FILE):
        stem = path.removesuffix(".json").removesuffix(".png").removesuffix("_flat")
        file_counts = scenes.setdefault(stem.rsplit("_", 2)[1], {})
        file_counts[stem] = file_counts.get(stem, 0) + 1
    for file_counts in scenes.values():
        stem_of_name = {stem.rpartition("/")[2]: stem for stem in file_counts}
        twice = next((stem for stem in file_counts if stem_of_name[stem.rpartition("/")[2]] != stem), None)
        if twice is not None:
            other = stem_of_name[twice.rpartition("/")[2]]
            raise CorruptFileError(
                f"{folder}: expected one scene of each number, but got {twice} and {other}: move one"
            )
    return {
        variant: SceneIndex(np.array(list(counts)), np.array([count == len(_SUFFIXES) for count in counts.values()]))
        for variant, counts in scenes.items()
    }


class ClevrTexSource(SceneSource):
    """The scenes of one variant of ClevrTex.

    Args:
        folder: The folder `clevrtex_<variant>`.
        variant: One of `VARIANTS`.
        index: Its scenes.

    Raises:
        CorruptFileError: If files of a scene are missing.
    """

    layout = "PNG files"

    def __init__(self, folder: Path, variant: str, index: SceneIndex) -> None:
        self.folder, self._variant, self.index = folder, variant, index
        if not index.whole.all():
            first = index.stems[np.argmin(index.whole)]
            raise CorruptFileError(
                f"{folder}: expected a .png, a _flat.png and a .json file for each scene, but some are missing for "
                f"{(~index.whole).sum():,} of {len(self):,}, first for {first}: unpack the archives again"
            )

    @property
    def variant(self) -> str:
        """Variant, as the names of the files say."""
        return self._variant

    def __len__(self) -> int:
        return len(self.index.stems)

    def image_files(self) -> list[Path]:
        """Return the files of the images."""
        return [self._path(index, ".png") for index in range(len(self))]

    def _path(self, index: int, suffix: str) -> Path:
        return self.folder / f"{self.index.stems[index]}{suffix}"

    @cached_property
    def _frame(self) -> tuple[int, ...]:
        return read_image(self._path(0, ".png"), alpha="drop").shape[:2]

    def image(self, index: int) -> NDArray[np.uint8]:
        """Read an image: colours `(240, 320, 3)`."""
        path = self._path(index, ".png")
        return check_frame(path, read_image(path, alpha="drop"), self._frame)

    def maps(self, index: int) -> dict[str, NDArray[np.uint8]]:
        """Read the label map of a scene `(240, 320)`, under the key `mask`: 0 is the ground, 1 to 10 the objects."""
        return {"mask": self._labels(self._path(index, "_flat.png"))}

    def _labels(self, path: Path) -> NDArray[np.uint8]:
        return check_frame(path, read_label_map(path), self._frame)

    def metadata(self, index: int) -> dict[str, Any]:
        """Read the description of a scene: materials, and shape, size, place and material of each object.

        Args:
            index: Number of the scene.

        Returns:
            The scene's JSON file; `objects` describes the k-th object under `index` k. The places in the image
            (`pixel_coords`) are those of the uncropped one, and colours mean something in the variant vbg only.

        Raises:
            CorruptFileError: If the file is truncated or damaged.
            DatasetNotFoundError: If the file does not exist or may not be read.
        """
        return _read_json(self._path(index, ".json"))

    def num_objects(self) -> NDArray[np.int64]:
        """Return the number of objects in each uncropped scene `(N,)`, as the JSON files say; they are read once."""
        return cached_integers(self.folder, self._files(".json"), _num_objects, f"{self.variant}_num_objects")

    def object_counts(self, crop: Crop | None = None) -> NDArray[np.int64]:
        """Count the objects of every scene that have a pixel in a part of the frame (None: in the frame), `(N,)`.

        The label maps are read once, 50,000 in half a minute; then it is known until they change.
        """
        top, left, height, width = crop or (0, 0, *self._frame)
        part = (slice(top, top + height), slice(left, left + width))

        def count(path: Path) -> int:
            pixels = np.bincount(self._labels(path)[part].ravel(), minlength=IGNORED)
            return int(np.count_nonzero(pixels[1:IGNORED]))

        name = "_".join(map(str, (self.variant, "objects", top, left, height, width)))
        return cached_integers(self.folder, self._files("_flat.png"), count, name)

    def _files(self, suffix: str) -> list[str]:
        return [f"{stem}{suffix}" for stem in self.index.stems]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        described = json.loads(path.read_bytes())
    except OSError as error:
        raise DatasetNotFoundError(f"Cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise CorruptFileError(f"{path}: expected a whole JSON file, but it cannot be read ({error})") from None
    if not isinstance(described, dict):
        raise CorruptFileError(f"{path}: expected the description of a scene, but got {type(described).__name__}")
    return described


def _num_objects(path: Path) -> int:
    number = _read_json(path).get("num_objects")
    if not isinstance(number, int):
        raise CorruptFileError(f"{path}: expected `num_objects` to be a whole number, but got {number!r}")
    return number


class ClevrTexDataModule(SceneDataModule):
    """ClevrTex: scenes of 3 to 10 objects with textures (see `SceneDataModule` for the filters and loaders).

    `data_root` is the folder `clevrtex_<variant>` or the one that it lies in. The variants: `full` (the default),
    `camo` (one material for the ground and all objects), `pbg` (plain ground), `vbg` (plain objects), `grassbg` (one
    ground), and `outd`, of materials and shapes that no other has.

    In the order of their numbers, the first 10 % of the scenes are the test split, the next 10 % the validation split
    and the rest the training split; of the 50,000 scenes of `full` these are scenes 0 to 4,999, 5,000 to 9,999 and
    10,000 to 49,999. All scenes of `outd` are the test split, to score a model that was trained on `full`:
    `python -m object_discovery.evaluate --checkpoint FILE --dataset clevrtex --variant outd --protocol clevrtex`.

    Images are cropped to the central square of 0.8 times their height, rows 24 to 215 and columns 64 to 255 (`fit`
    None or crop), or taken whole (`fit` squash), then resized bilinearly with antialiasing; label maps to the nearest
    pixel. Objects are counted after the crop, which can remove some.

    Reference:
        Karazija et al., ClevrTex: A Texture-Rich Benchmark for Unsupervised Multi-Object Segmentation,
        arXiv:2111.10265.
    """

    name = "clevrtex"
    recommended = RECOMMENDED["clevrtex"]
    variants: ClassVar[tuple[str, ...]] = VARIANTS
    antialias: ClassVar[bool] = True
    how_to_get = "download it by `object-discovery download clevrtex FOLDER`"

    def _find_splits(self, root: str) -> dict[str, Split]:
        source = self._find(Path(root).expanduser())
        size = len(source)
        published = _PUBLISHED_SIZES.get(source.variant, size)
        note = "" if size == published else f"; published are {published:,} scenes, here are {size:,}"
        if source.variant == "outd":
            return {"test": Split(source, np.arange(size), f"all scenes of outd{note}")}
        if size < 3:
            raise UserError(f"Expected at least 3 scenes to split into training, validation and test, but got {size}")
        part = max(1, size // 10)
        test, val, train = np.split(np.arange(size), [part, 2 * part])
        rule = f"by number the first 10 % to test, the next 10 % to validate, the rest to train{note}"
        return {"train": Split(source, train, rule), "val": Split(source, val, rule), "test": Split(source, test, rule)}

    def _find(self, root: Path) -> ClevrTexSource:
        """Find the scenes of the variant asked for, else those of the first variant that there is."""
        wanted = [self.params.variant] if self.params.variant else list(VARIANTS)
        folders = [root / f"clevrtex_{variant}" for variant in wanted]
        folder = next((folder for folder in folders if folder.is_dir()), root)
        indices = index_scenes(folder)
        for variant in wanted:
            if variant in indices:
                return ClevrTexSource(folder, variant, indices[variant])
        if indices:
            available = next(iter(indices))
            raise UserError(
                f"Expected {folder} to hold the variant {wanted[0]}, but it holds {available}: "
                f"give `--variant {available}` "
                "or another folder"
            )
        raise DatasetNotFoundError(
            f"Expected argument `data_root` to be a folder clevrtex_{wanted[0]} or the one that it lies in, but "
            f"{folder} has no scenes as 0/CLEVRTEX_{wanted[0]}_000000.png; {self.how_to_get}"
        )

    def _crop(self, frame: tuple[int, ...]) -> Crop | None:
        return None if self.params.fit == "squash" else central_crop(frame)
