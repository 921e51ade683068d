"""Where the caches of a dataset lie, and training and evaluation that use them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import LightningDataModule
from torch import nn
from torch.utils.data import DataLoader

from object_discovery.data.datamodule import SceneDataModule
from object_discovery.data.loaders import make_loader
from object_discovery.data.readers.cache import cache_paths
from object_discovery.discovery import Batch
from object_discovery.errors import UserError
from object_discovery.feature_cache.cache import SHARD_SIZE, FeatureCache, find_cache
from object_discovery.feature_cache.dataset import CachedFeatureDataset, scene_numbers
from object_discovery.feature_cache.key import Key, key_digest, scenes_key
from object_discovery.feature_cache.writer import every_image, thumbnails, write_features
from object_discovery.layers.frozen_encoder import FrozenEncoder

_CHECKED = 4  # images of a split that are compared with those the features are of
_TOLERANCE = 4  # grey levels; decoders of JPEG differ by one or two


def encoder_of(model: nn.Module) -> FrozenEncoder | None:
    """Return the frozen encoder of a model, or None if it has none."""
    encoder = getattr(model, "encoder", None)
    return encoder if isinstance(encoder, FrozenEncoder) else None


def no_encoder(model_type: str) -> UserError:
    """Return the error that a model has no features that could be kept."""
    return UserError(f"Expected argument `feature_cache` to be none, as {model_type} has no frozen encoder")


def features_key(data: SceneDataModule, split: str, encoder: FrozenEncoder, exact: bool = False) -> Key:
    """Describe the features of a split.

    Args:
        data: The dataset.
        split: The split.
        encoder: The encoder.
        exact: Load the weights and hash them. False: those of a hub are known by their name, and are None, unless the
            encoder expects certain ones.

    Raises:
        UserError: If the encoder takes images of another resolution.
    """
    params = data.params
    if params.resolution != encoder.resolution:
        raise UserError(
            f"Expected argument `resolution` to be the encoder's, {encoder.resolution}, but got {params.resolution}"
        )
    known = exact or encoder.weights != "hub"
    drawing = {
        "seed": params.data_seed,
        "variant": data.variant,
        "objects": [params.min_objects, params.max_objects, params.eval_max_objects],
    }
    described = encoder.key() if known else {**encoder.description(), "weights": encoder.expected}
    return {**described, **scenes_key(data.name, getattr(data, f"{split}_set"), drawing)}


def cache_roots(data: SceneDataModule) -> list[Path]:
    """Return the default folders of the caches of a dataset, the preferred first: next to the data."""
    if data.params.data_root is None:
        return cache_paths(Path("drawn.features").absolute())[1:]
    root = Path(data.params.data_root).expanduser().resolve()
    return cache_paths(root.with_name(f"{root.name}.features"))


def find_caches(
    data: SceneDataModule, encoder: FrozenEncoder, splits: Sequence[str], views: int = 1
) -> dict[str, FeatureCache]:
    """Find the cache that `feature_cache` names for each split; with auto only those that are whole.

    Args:
        data: The dataset.
        encoder: The encoder.
        splits: The splits.
        views: 2 if mirrored views are needed too.

    Raises:
        UserError: If a folder is named that does not hold the features, with what differs.
    """
    choice = data.params.feature_cache
    caches = {}
    for split in splits if choice != "none" else ():
        scenes = getattr(data, f"{split}_set")
        key = features_key(data, split, encoder)
        cache = _look_up(data, key) if choice == "auto" else find_cache(Path(choice).expanduser(), key)
        missing = [] if cache is None else cache.missing(scene_numbers(scenes), views)
        if cache is None or (missing and choice == "auto"):
            continue
        if missing:
            plain = cache.missing(scene_numbers(scenes))
            count = f"{len(missing)} shard{'s' if len(missing) > 1 else ''}"
            what = f"{count} of the {split} split" if plain else "the mirrored views of `random_flip`"
            raise UserError(
                f"{cache.folder} lacks {what}: run `object-discovery cache-features` again with the flags of this run"
            )
        check_images(data, split, cache)
        caches[split] = cache
    return caches


def check_images(data: SceneDataModule, split: str, cache: FeatureCache) -> None:
    """Compare a few images of a split with those that the features are of.

    Raises:
        UserError: If one differs by more than what decoders differ by.
    """
    scenes = getattr(data, f"{split}_set")
    numbers = scene_numbers(scenes)
    images = every_image(scenes, cache.shard_size)
    for number in numbers[np.linspace(0, len(numbers) - 1, _CHECKED).astype(np.int64)].tolist():
        kept = cache.shard(number // cache.shard_size).thumbnails[number % cache.shard_size]
        now = thumbnails(images[[number]]["image"])[0]
        if np.abs(now.astype(int) - kept).max() > _TOLERANCE:
            raise UserError(
                f"The features in {cache.folder} are of other images, as image {number} has changed since: "
                "delete the folder"
            )


def make_caches(
    data: SceneDataModule,
    encoder: FrozenEncoder,
    splits: Sequence[str],
    *,
    views: int = 1,
    shard_size: int = SHARD_SIZE,
    device: torch.device | str = "cpu",
    progress: bool = True,
) -> dict[str, FeatureCache]:
    """Write what is missing of the features of some splits, where `feature_cache` says; none counts as auto.

    Args:
        data: The dataset.
        encoder: The encoder.
        splits: The splits.
        views: 2 to add the features of mirrored images to the training split.
        shard_size: Scenes in a shard, if the cache is new.
        device: Where to compute.
        progress: Show a progress bar on a terminal.

    Returns:
        The cache of each split.

    Raises:
        UserError: If the features cannot be written, or do not fit into float16.
    """
    made = {}
    for split in splits:
        scenes = getattr(data, f"{split}_set")
        cache = _create(data, features_key(data, split, encoder, exact=True), shard_size)
        write_features(
            encoder,
            every_image(scenes, cache.shard_size),
            scene_numbers(scenes),
            cache,
            views=views if split == "train" else 1,
            batch_size=data.params.batch_size,
            num_workers=data.params.num_workers,
            device=device,
            progress=progress,
        )
        check_images(data, split, cache)
        made[split] = cache
    return made


class FeatureDataModule(LightningDataModule):
    """A dataset whose training and validation scenes come with cached features.

    Mirrored images are chosen when they are read, so nothing is mirrored on the device.

    Args:
        data: The dataset.
        caches: The cache of each split.
        images: Whether training needs images and label maps besides the features.
    """

    def __init__(self, data: SceneDataModule, caches: dict[str, FeatureCache], images: bool = True) -> None:
        super().__init__()
        self.data, self.caches, self.images = data, caches, images
        self.params = data.params
        self.has_masks = data.has_masks

    def describe(self) -> str:
        """Say where scenes and features come from."""
        folders = sorted({str(cache.folder) for cache in self.caches.values()})
        return f"{self.data.describe()}\n  features: {', '.join(folders)}"

    def setup(self, stage: str | None = None) -> None:
        """Open the splits that `stage` needs, see `SceneDataModule.setup`."""
        self.data.setup(stage)

    def train_dataloader(self) -> DataLoader[Batch]:
        """Load the training split, shuffled."""
        views = 2 if self.params.random_flip else 1
        return self._loader("train", views=views, images=self.images)

    def val_dataloader(self) -> DataLoader[Batch]:
        """Load the validation split, each scene once."""
        return self._loader("val")

    def _loader(self, split: str, **settings: Any) -> DataLoader[Batch]:
        stored = getattr(self.data, f"{split}_set")
        scenes = CachedFeatureDataset(stored, self.caches[split], scene_numbers(stored), **settings)
        train, params = split == "train", self.params
        return make_loader(scenes, train=train, batch_size=params.batch_size, num_workers=params.num_workers)


def with_features(
    data: SceneDataModule, model: nn.Module, accelerator: str = "auto"
) -> SceneDataModule | FeatureDataModule:
    """Let training read the features of the model's encoder from a cache, as `feature_cache` selects.

    With auto, what is missing is written first, on a GPU where there is one.

    Args:
        data: The dataset.
        model: The model.
        accelerator: Lightning's accelerator.

    Returns:
        What training loads its batches from.

    Raises:
        UserError: If the cache is of other features, or the model or the settings allow none.
    """
    params, encoder = data.params, encoder_of(model)
    if params.feature_cache == "none":
        return data
    if encoder is None:
        raise no_encoder(getattr(model, "model_type", type(model).__name__))
    if params.random_crop is not None:
        raise UserError(
            "Expected argument `random_crop` to be None with `feature_cache`: random crops cannot be cached"
        )
    views = 2 if params.random_flip else 1
    caches = {**find_caches(data, encoder, ["train"], views), **find_caches(data, encoder, ["val"])}
    lacking = [split for split in ("train", "val") if split not in caches]
    if lacking:
        caches |= make_caches(data, encoder, lacking, views=views, device=choose_device(accelerator))
    for cache in caches.values():
        encoder.expect(cache.key["weights"])
    encoder.release()  # its weights may have been hashed
    return FeatureDataModule(data, caches, images=getattr(model, "needs_images", True))


def choose_device(accelerator: str) -> torch.device:
    """Choose where to compute features: the GPU of this process, if there is one and `accelerator` allows it."""
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    return torch.device("cpu")


def _look_up(data: SceneDataModule, key: Key) -> FeatureCache | None:
    """Find the cache of a key where caches lie without being named."""
    for root in cache_roots(data):
        try:
            return find_cache(root, key)
        except UserError:
            continue
    return None


def _create(data: SceneDataModule, key: Key, shard_size: int) -> FeatureCache:
    choice = data.params.feature_cache
    named = choice not in ("auto", "none")
    roots = [Path(choice).expanduser()] if named else cache_roots(data)
    name = f"{key['dataset']}_{key_digest(key)}"
    writable = next((root for root in roots if (root / name).is_dir() and os.access(root / name, os.W_OK)), None)
    for root in [writable] if writable else roots:
        try:
            return FeatureCache.create(root, key, shard_size)
        except OSError as error:
            reason = error
    raise UserError(f"Expected argument `feature_cache` to be a folder that can be written to ({reason})")
