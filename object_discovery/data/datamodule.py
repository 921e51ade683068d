"""Base LightningDataModule of all datasets: splits, filters and loaders."""

from __future__ import annotations

import dataclasses
import os
import sys
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from lightning import LightningDataModule
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from object_discovery.data.augmentation import augment
from object_discovery.data.dataset import GeneratedScenes, SceneDataset, SceneGenerator, StoredScenes
from object_discovery.data.geometry import Crop, inner_square
from object_discovery.data.loaders import make_loader
from object_discovery.data.readers.multi_object_datasets import DATASET_SCHEMAS
from object_discovery.data.readers.source import SceneSource
from object_discovery.data.splits import SPLITS, PublishedSplit, Split, find_splits
from object_discovery.discovery import Batch
from object_discovery.errors import DatasetNotFoundError, UserError
from object_discovery.params import DataParams

_GENERATED_SIZE = {"train": 1_000_000, "val": 10_000, "test": 320}
_FIELDS = {field.name for field in dataclasses.fields(DataParams)}


class SceneDataModule(LightningDataModule):
    """LightningDataModule of scenes: batches of `image` uint8 `(B, 3, H, W)` and `mask` uint8 `(B, H, W)`.

    Constructed from one :class:`DataParams`, or from its fields as keywords; other fields then have the `recommended`
    value of the dataset.

    *Source.* `data_root` is an HDF5 file, or a folder of HDF5 files. Without it, scenes are generated on the fly, where
    the dataset allows it; the generated splits are disjoint and of `train_size`, `val_size` and `test_size` scenes
    (None: 1,000,000, 10,000 and 320).

    *Splits of files.* Files named `train*`, `val*` and `test*` are used as named; without `val*` the last 15 % of the
    training file are for validation, without `test*` there is no test split. A single file with more than the published
    training and test scenes is split as published: the first for training, the next 320 for testing, the rest for
    validation. A smaller one is split 70 / 15 / 15 % in file order. The sizes limit each split after the filters.

    *Filters.* `min_objects` applies to all splits, `max_objects` to training, and `eval_max_objects` (None: as
    `max_objects`; 0: no limit) to validation and test. Objects are counted without the background, after the crop.

    *Distributed.* Each process loads its share: training scenes shuffled, validation and test scenes exactly once over
    all processes, so that the scores equal those of one process.

    Args:
        params: The settings.
        **settings: Fields of `DataParams`, in place of `params`.

    Raises:
        TypeError: If a keyword is not a field of `DataParams`, or both `params` and keywords are given.
        UserError: If the variant does not exist.
    """

    name: str
    """Key of the dataset in `DATASETS`."""
    recommended: ClassVar[dict[str, Any]]
    """Recommended values of hyperparameters for this dataset, fields of any params class."""
    published: ClassVar[PublishedSplit]
    """Split of the published file in the published experiments."""
    antialias: ClassVar[bool] = False
    """Whether stored images are resized with antialiasing, as published."""
    how_to_get: ClassVar[str] = "`object-discovery download --list` lists where to get them"
    """How to get the dataset, as the end of a sentence."""
    variants: ClassVar[tuple[str, ...]] = ()
    """Names of the variants; the first is the default."""

    def __init__(self, params: DataParams | None = None, **settings: Any) -> None:
        super().__init__()
        unknown = sorted(settings.keys() - _FIELDS)
        if unknown:
            raise TypeError(f"Expected keywords to be fields of DataParams, but got `{unknown[0]}`")
        if params is not None and settings:
            raise TypeError(f"Expected either `params` or keywords, but got both: {', '.join(settings)}")
        if params is None:
            defaults = {key: value for key, value in self.recommended.items() if key in _FIELDS}
            params = DataParams(**{"dataset": self.name, **defaults, **settings})
        self.params = params
        if params.variant is not None and params.variant not in self.variants:
            known = f"one of {', '.join(self.variants)}" if self.variants else f"None, as {self.name} has no variants"
            raise UserError(f"Expected argument `variant` to be {known}, but got {params.variant!r}")
        self._sets: dict[str, SceneDataset] = {}
        self._counts: dict[tuple[int, Crop | None], NDArray[np.int64]] = {}

    @cached_property
    def splits(self) -> dict[str, Split]:
        """The splits at `data_root` before filters; empty for generated scenes."""
        return self._find_splits(self.params.data_root) if self.params.data_root else {}

    @property
    def variant(self) -> str | None:
        """The variant of the settings, otherwise that of the file, otherwise the first of the dataset."""
        variants = {split.source.variant for split in self.splits.values()}
        return self.params.variant or next(iter(variants), None) or next(iter(self.variants), None)

    @property
    def has_masks(self) -> bool:
        """Whether the scenes have label maps, which segmentation scores need."""
        source = next((split.source for split in self.splits.values()), None)
        return source is None or "mask" in source.maps(0)

    @property
    def train_set(self) -> SceneDataset:
        """The training split, opened lazily."""
        return self._split("train")

    @property
    def val_set(self) -> SceneDataset:
        """The validation split, opened lazily."""
        return self._split("val")

    @property
    def test_set(self) -> SceneDataset:
        """The test split, opened lazily."""
        return self._split("test")

    def setup(self, stage: str | None = None) -> None:
        """Open the splits of a stage, so that errors in the data are raised before training starts.

        Args:
            stage: fit, validate or test. None: training and validation; the test split is opened when it is used.

        Raises:
            DatasetNotFoundError: If there are no data, or no such split.
            UserError: If the data are of another dataset, or no scene passes the filters.
        """
        needed = {"validate": ("val",), "test": ("test",)}
        for split in needed.get(stage or "fit", ("train", "val")):
            self._split(split)

    def train_dataloader(self) -> DataLoader[Batch]:
        """Load the training split, shuffled."""
        return self._loader("train")

    def val_dataloader(self) -> DataLoader[Batch]:
        """Load the validation split, each scene once."""
        return self._loader("val")

    def test_dataloader(self) -> DataLoader[Batch]:
        """Load the test split, each scene once."""
        return self._loader("test")

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Move a batch to the device; in training, flip and crop it there.

        The random numbers are a function of the seed, the rank and the index of the batch, so that a resumed run
        continues identically.
        """
        batch = super().transfer_batch_to_device(batch, device, dataloader_idx)
        flip, crop, trainer = self.params.random_flip, self.params.random_crop, self.trainer
        if trainer is None or not trainer.training or not (flip or crop):
            return batch
        state = (int(os.environ.get("PL_GLOBAL_SEED", 0)), trainer.global_rank, trainer.fit_loop.total_batch_idx + 1)
        seed = int(np.random.SeedSequence(state).generate_state(1)[0])
        return augment(batch, flip=flip, crop=crop, generator=torch.Generator().manual_seed(seed))

    def describe(self) -> str:
        """Return a few lines of text: source, splits, sizes and filters."""
        root, seed = self.params.data_root, self.params.data_seed
        layout = next((split.source.layout for split in self.splits.values()), None)
        source = f"{root}, {layout}" if layout else f"generated, seed {seed}"
        lines = [f"{self.name}{f' ({self.variant})' if self.variant else ''}: {source}"]
        for split, scenes in self._sets.items():
            low, high = self._limits(split)
            least = f", {low} or more objects" if low else ""
            limits = (
                least if high == sys.maxsize else f", {low} to {high} objects" if low else f", at most {high} objects"
            )
            rule = self.splits[split].rule if self.splits else "generated on the fly"
            size = scenes.resolution
            lines.append(f"  {split}: {len(scenes):,} scenes of {size} x {size} pixels ({rule}{limits})")
        return "\n".join(lines)

    @classmethod
    def _scene_generator(
        cls, seed: int, variant: str | None, counts: tuple[int, int], resolution: int
    ) -> SceneGenerator | None:
        """Return the generator of scenes with `counts` objects (least, most), or None if it has none.

        Scenes of another size than `resolution` are resized.

        Raises:
            DatasetNotFoundError: If the dataset cannot be generated; the default.
        """
        raise DatasetNotFoundError(
            f"Expected argument `data_root` to be the file or folder of {cls.name}, but got None: "
            f"this dataset cannot be generated; {cls.how_to_get}"
        )

    def _crop(self, frame: tuple[int, ...]) -> Crop | None:
        """Return the crop of images of this height and width by `fit`. None: the whole frame.

        By default the published crop or, where there is none, the whole frame.
        """
        published = (known.crop for known in DATASET_SCHEMAS if (known.name, known.image[:2]) == (self.name, frame))
        crop = next(published, None)
        if self.params.fit == "crop" and crop is None and frame[0] != frame[1]:
            return inner_square((0, 0, frame[0], frame[1]))
        return None if self.params.fit == "squash" else crop

    def _find_splits(self, root: str) -> dict[str, Split]:
        """Find the splits at `data_root`; by default those of HDF5 files."""
        default = next(iter(self.variants), None)
        return find_splits(root, self.name, self.params.variant, self.published, default)

    def _limits(self, split: str) -> tuple[int, int]:
        """Return the minimum and maximum number of objects of a split."""
        high = self.params.max_objects
        if split != "train" and self.params.eval_max_objects is not None:
            high = self.params.eval_max_objects or None
        return self.params.min_objects or 0, sys.maxsize if high is None else high

    def _loader(self, split: str) -> DataLoader[Batch]:
        params = self.params
        train = split == "train"
        return make_loader(
            self._split(split), train=train, batch_size=params.batch_size, num_workers=params.num_workers
        )

    def _split(self, split: str) -> SceneDataset:
        if split not in self._sets:
            self._sets[split] = self._read(split) if self.params.data_root else self._generate(split)
        return self._sets[split]

    def _generate(self, split: str) -> SceneDataset:
        generator = self._scene_generator(
            self.params.data_seed, self.variant, self._limits(split), self.params.resolution
        )
        if generator is None:
            raise self._nothing_left(split)
        size: int | None = getattr(self.params, f"{split}_size")
        start = SPLITS.index(split) << 32
        return GeneratedScenes(generator, start, size or _GENERATED_SIZE[split], self.params.resolution)

    def _read(self, split: str) -> SceneDataset:
        if split not in self.splits:
            existing = ", ".join(self.splits)
            raise DatasetNotFoundError(
                f"Expected a {split} split in {self.params.data_root}, but it has {existing} only"
            )
        source, indices, _ = self.splits[split]
        if not len(indices):
            raise self._nothing_left(split)
        crop = self._crop(source.image(int(indices[0])).shape[:2])
        low, high = self._limits(split)
        if low > 0 or high < sys.maxsize:
            counts = self._object_counts(source, crop)[indices]
            indices = indices[(low <= counts) & (counts <= high)]
        indices = indices[: getattr(self.params, f"{split}_size")]
        if not len(indices):
            raise self._nothing_left(split)
        return StoredScenes(source, indices, crop, self.params.resolution, self.antialias)

    def _object_counts(self, source: SceneSource, crop: Crop | None) -> NDArray[np.int64]:
        """Return the number of objects of every scene of a source, shared by the splits of a file."""
        key = (id(source), crop)
        if key not in self._counts:
            self._counts[key] = np.asarray(source.object_counts(crop))
        return self._counts[key]

    def _nothing_left(self, split: str) -> UserError:
        low, high = self._limits(split)
        limit = f"{low} to {high}" if high < sys.maxsize else f"{low} or more"
        return UserError(
            f"Expected some {split} scenes of {self.name} with {limit} objects, but found none: "
            "change `min_objects`, `max_objects` or `eval_max_objects`"
        )
