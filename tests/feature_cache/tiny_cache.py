"""Small photographs, encoder and feature cache for tests."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from torch import Tensor

from object_discovery import COCODataModule
from object_discovery.feature_cache import FeatureCache, write_features
from object_discovery.feature_cache.datamodule import features_key
from object_discovery.feature_cache.writer import every_image
from object_discovery.layers.frozen_encoder import FrozenEncoder
from tests.data.layouts.coco import write_coco

SIZE = 16
"""Height and width of the images."""
SHARD = 4
"""Scenes in a shard; the training images make four."""


class SlowEncoder(FrozenEncoder):
    """Encoder that sleeps before each batch, so that a process can be killed, and logs its batches."""

    seconds = 0.0
    log: Path | None = None

    def forward(self, images: Tensor) -> Tensor:
        time.sleep(self.seconds)
        if self.log is not None:
            with open(self.log, "a") as file:
                file.write("x")
        return super().forward(images)


def make_encoder(**settings: Any) -> SlowEncoder:
    return SlowEncoder("test_efficientnet", **{"weights": "none", "block": 2, "resolution": SIZE, **settings})


def make_data(root: Path, **settings: Any) -> COCODataModule:
    """Write the photographs unless they exist, and return their data module."""
    if not (root / "coco").exists():
        write_coco(root / "coco")
    fixed = {"resolution": SIZE, "num_workers": 0, "batch_size": 4, "random_flip": False}
    return COCODataModule(data_root=str(root / "coco"), **{**fixed, **settings})


def write(root: Path, folder: str = "features", views: int = 1, encoder: FrozenEncoder | None = None) -> FeatureCache:
    """Write the features of all training images."""
    data, encoder = make_data(root), encoder or make_encoder()
    cache = FeatureCache.create(root / folder, features_key(data, "train", encoder), SHARD)
    images = every_image(data.train_set, SHARD)
    write_features(encoder, images, np.arange(14), cache, views=views, batch_size=2, num_workers=0, progress=False)
    return cache


def contents(folder: Path) -> dict[str, bytes]:
    """Read all files of a folder, including hidden ones.

    Shards are compared by attributes and arrays, not by bytes: HDF5 before 2.0 stores the time of writing.
    """
    return {
        path.name: _shard_content(path) if path.match("[!.]*.h5") else path.read_bytes() for path in folder.glob("*")
    }


def _shard_content(path: Path) -> bytes:
    with h5py.File(path) as file:
        arrays = {name: (array.dtype.str, array.shape, array[()].tobytes()) for name, array in sorted(file.items())}
        return repr((sorted(file.attrs.items()), arrays)).encode()
