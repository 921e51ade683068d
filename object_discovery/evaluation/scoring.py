"""Score a model on a split of a dataset with Lightning's `Trainer.test`."""

from __future__ import annotations

import dataclasses
import math
import sys
from typing import Any

from lightning import LightningDataModule, Trainer, seed_everything
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch.utils.data import DataLoader

from object_discovery.data import DATASETS, SceneDataModule
from object_discovery.data.loaders import make_loader
from object_discovery.data.resized_targets import ResizedTargetDataset
from object_discovery.errors import DatasetNotFoundError, UserError
from object_discovery.evaluation.protocols import Protocol, ProtocolScores
from object_discovery.feature_cache import CachedFeatureDataset, find_caches, scene_numbers
from object_discovery.layers.frozen_encoder import FrozenEncoder
from object_discovery.models import ObjectDiscoveryModel
from object_discovery.params import DataParams


class SplitDataModule(LightningDataModule):
    """Datamodule whose test split is any split of a dataset; each scene is loaded once and in order.

    Args:
        data: The dataset.
        split: Name of the split: train, val or test.
        mask_size: Height and width of the label maps. None: those of the images.
        encoder: Frozen encoder whose cached features are loaded if the settings of the data name a feature cache.
    """

    def __init__(
        self, data: SceneDataModule, split: str, mask_size: int | None = None, encoder: FrozenEncoder | None = None
    ) -> None:
        super().__init__()
        self.data = data
        self.split = split
        self.mask_size = mask_size
        self.caches = {} if encoder is None else find_caches(data, encoder, [split])

    def test_dataloader(self) -> DataLoader[Any]:
        """Return the loader of the split; each process of a distributed run loads its own share."""
        params = self.data.params
        images = getattr(self.data, f"{self.split}_set")
        scenes = images if self.mask_size is None else ResizedTargetDataset(images, self.mask_size)
        if self.split in self.caches:
            scenes = CachedFeatureDataset(scenes, self.caches[self.split], scene_numbers(images))
        return make_loader(scenes, train=False, batch_size=params.batch_size, num_workers=params.num_workers)


def find_dataset(name: str) -> type[SceneDataModule]:
    """Return the datamodule class of a dataset.

    Raises:
        DatasetNotFoundError: If there is no dataset of this name.
    """
    if name not in DATASETS:
        names = ", ".join(DATASETS)
        raise DatasetNotFoundError(f"Expected argument `dataset` to be one of {names}, but got {name!r}")
    return DATASETS[name]


def open_split(params: DataParams, protocol: Protocol, split: str) -> SceneDataModule:
    """Open a split of a dataset with the number of scenes and the image fit of a protocol.

    Args:
        params: Settings of the data.
        protocol: The protocol; its `num_scenes` limits the split, its `fit` replaces that of `params`.
        split: Name of the split: train, val or test.

    Raises:
        UserError: If the data are missing or unusable.
    """
    if protocol.fit is not None:
        params = dataclasses.replace(params, fit=protocol.fit)
    if protocol.num_scenes is not None:
        limit = min(protocol.num_scenes, getattr(params, f"{split}_size") or protocol.num_scenes)
        sizes: dict[str, Any] = {f"{split}_size": limit}
        params = dataclasses.replace(params, **sizes)
    data = find_dataset(params.dataset)(params)
    getattr(data, f"{split}_set")
    return data


def build_test_trainer(accelerator: str, devices: str, precision: str) -> Trainer:
    """Build a trainer that tests without logging or saving.

    Args:
        accelerator: Lightning's accelerator.
        devices: Lightning's devices.
        precision: Lightning's precision.

    Raises:
        UserError: If Lightning refuses a value or the device is missing.
    """
    try:
        return Trainer(
            accelerator=accelerator,
            devices=devices,
            precision=precision,  # type: ignore[arg-type]
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=sys.stderr.isatty(),
            use_distributed_sampler=False,
        )
    except (MisconfigurationException, ValueError, TypeError) as error:
        raise UserError(str(error)) from error


def score_model(
    trainer: Trainer, model: ObjectDiscoveryModel[Any], data: SplitDataModule, protocol: Protocol, seed: int
) -> dict[str, float | None]:
    """Score a model by a protocol.

    Args:
        trainer: See `build_test_trainer`.
        model: The model; its test metrics are replaced by those of the protocol.
        data: The split.
        protocol: The protocol.
        seed: Seed of models with random slot initialisation.

    Returns:
        The scores by name; None for a score that is NaN.
    """
    seed_everything(seed, verbose=False)
    model.scores["test"] = ProtocolScores(protocol, model.extra_metrics())
    results = trainer.test(model, data, verbose=False)
    scores = {name.removeprefix("test/"): float(value) for name, value in results[0].items()}
    return {name: None if math.isnan(value) else value for name, value in scores.items()}
