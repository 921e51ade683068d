"""A folder of cached features: which scenes it holds, and reading any of them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from object_discovery.errors import CorruptFileError, UserError
from object_discovery.feature_cache.key import Key, key_differences, key_digest
from object_discovery.feature_cache.shard import FORMAT, VERSION, Shard
from object_discovery.files import atomic_write

SHARD_SIZE = 256
"""Scenes in a shard."""
VIEWS = ("original", "mirrored")
"""The views that a cache may hold."""
_KEY = "key.json"


class FeatureCache:
    """Features of the scenes of a dataset, in shards that lie in one folder with the key they were made by.

    Scene n stands in shard `n // shard_size`; each view of a shard is a separate file. The object is picklable, and
    holds no features: every read goes to the file.

    Args:
        folder: The folder.
        key: What the features depend on.
        shard_size: Scenes in a shard.
    """

    def __init__(self, folder: Path, key: Key, shard_size: int = SHARD_SIZE) -> None:
        self.folder, self.key, self.shard_size = folder, key, shard_size
        self.digest = key_digest(key)
        self._shards: dict[tuple[int, int], Shard] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_shards": {}}

    @classmethod
    def open(cls, folder: Path) -> FeatureCache:
        """Open a cache by its `key.json`.

        Raises:
            UserError: If there is none, or of a newer version.
            CorruptFileError: If it cannot be read.
        """
        path = folder / _KEY
        if not path.is_file():
            raise UserError(f"Expected a cache of features, but there is no {path}")
        try:
            content = json.loads(path.read_text())
            known, version = content["format"] == FORMAT, content["version"]
            key, size = content["key"], int(content["shard_size"])
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise CorruptFileError(f"{path}: expected the key of a feature cache, but it is damaged") from error
        if not known or version > VERSION:
            raise UserError(f"{path}: written by a newer version of the library; update the library to read it")
        return cls(folder, key, size)

    @classmethod
    def create(cls, root: Path, key: Key, shard_size: int = SHARD_SIZE) -> FeatureCache:
        """Make the folder of a key in a folder of caches, or open it if it is there.

        Raises:
            OSError: If it cannot be written.
        """
        folder = root / f"{key['dataset']}_{key_digest(key)}"
        if not (folder / _KEY).is_file():
            content = {"format": FORMAT, "version": VERSION, "shard_size": shard_size, "key": key}
            with atomic_write(folder / _KEY) as temporary:
                temporary.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
        return cls.open(folder)

    def path(self, shard: int, view: int = 0) -> Path:
        """Return the file of a shard."""
        return self.folder / f"{shard:05d}{'' if view == 0 else '.' + VIEWS[view]}.h5"

    def shards_of(self, numbers: NDArray[np.int64]) -> list[int]:
        """Return the shards that these scenes stand in, in order."""
        return [int(shard) for shard in np.unique(numbers // self.shard_size)]

    def missing(self, numbers: NDArray[np.int64], views: int = 1) -> list[int]:
        """Return the shards of these scenes of which a view is not there."""
        return [
            shard
            for shard in self.shards_of(numbers)
            if not all(self.path(shard, view).is_file() for view in range(views))
        ]

    def shard(self, shard: int, view: int = 0) -> Shard:
        """Open a shard, or return it if it is open.

        Raises:
            DatasetNotFoundError: If it is not there.
            CorruptFileError: If it is damaged.
        """
        if (shard, view) not in self._shards:
            first = shard * self.shard_size
            self._shards[shard, view] = Shard.open(self.path(shard, view), self.digest, first, view)
        return self._shards[shard, view]

    def read(self, numbers: Iterable[int], views: Iterable[int]) -> Tensor:
        """Read features.

        Args:
            numbers: Numbers of scenes, B.
            views: The view of each.

        Returns:
            `(B, N, F)`, float16.

        Raises:
            DatasetNotFoundError: If they are not there.
            CorruptFileError: If they are damaged.
        """
        rows = [
            (self.shard(number // self.shard_size, view), number % self.shard_size)
            for number, view in zip(numbers, views, strict=True)
        ]
        features = torch.empty(len(rows), *rows[0][0].shape[1:], dtype=torch.float16)
        for (shard, row), values in zip(rows, features.numpy(), strict=True):
            shard.read_into(row, values)
        return features


def find_cache(root: Path, wanted: Key) -> FeatureCache:
    """Find the cache of a key in a folder of caches, or in the folder itself.

    Args:
        root: The folder.
        wanted: The key; `weights` may be None, which fits any.

    Returns:
        The cache.

    Raises:
        UserError: If there is none, with what the nearest one differs in; or several fit.
    """
    folders = [root, *sorted(path for path in root.glob("*") if path.is_dir())]
    caches = [FeatureCache.open(folder) for folder in folders if (folder / _KEY).is_file()]
    if not caches:
        raise UserError(
            f"Expected a feature cache in {root}, but found none: write one with `object-discovery cache-features`"
        )
    differences = [key_differences(cache.key, wanted) for cache in caches]
    fitting = [cache for cache, differs in zip(caches, differences, strict=True) if not differs]
    if len(fitting) > 1:
        raise UserError(f"{root} holds features of several weights: name the folder of one as `feature_cache`")
    if not fitting:
        least = min(differences, key=len)
        raise UserError(f"The features in {root} are of another kind: {', '.join(least)}")
    return fitting[0]
