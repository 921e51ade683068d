"""What tells features apart: the encoder with its weights, and the images that it saw."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, TypeAlias

from object_discovery.data.dataset import GeneratedScenes, SceneDataset, StoredScenes
from object_discovery.data.readers.photographs import PhotographSource
from object_discovery.data.readers.source import SceneSource

Key: TypeAlias = dict[str, Any]
"""Plain values by name."""


def scenes_key(name: str, scenes: SceneDataset, drawing: Mapping[str, Any]) -> Key:
    """Describe all images that the scenes of a split are chosen from, and how they are cropped and resized.

    Files are told by their names and sizes, wherever they lie; so a copy of a dataset may use the same features.

    Args:
        name: Name of the dataset.
        scenes: The split, generated or stored.
        drawing: What else generated scenes depend on.

    Returns:
        Values that JSON keeps as they are.

    Raises:
        TypeError: If the scenes are of another kind.
    """
    if isinstance(scenes, GeneratedScenes):
        return {"dataset": name, "first": scenes.start, **drawing}
    if not isinstance(scenes, StoredScenes):
        raise TypeError(f"Expected argument `scenes` to be generated or stored scenes, but got {type(scenes).__name__}")
    source = scenes.source
    return {
        "dataset": name,
        "variant": source.variant,
        "images": len(source),
        "files": files_digest(source),
        "fit": source.fit if isinstance(source, PhotographSource) else None,
        "crop": None if scenes.crop is None else list(scenes.crop),
        "antialias": scenes.antialias,
    }


def files_digest(source: SceneSource) -> str:
    """Return a digest of the names and sizes of the files that a source reads images from.

    Raises:
        FileNotFoundError: If one of them is missing.
    """
    states = [(path.name, path.stat().st_size) for path in source.image_files()]
    return hashlib.sha256(repr(states).encode(errors="surrogateescape")).hexdigest()[:16]


def key_digest(key: Key) -> str:
    """Return a digest of a key, as part of a name.

    Example:
        >>> key_digest({"block": 12, "dataset": "coco"}) == key_digest({"dataset": "coco", "block": 12})
        True
    """
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]


def key_differences(actual: Key, wanted: Key) -> list[str]:
    """List the differences between a key and the wanted one; a wanted value of None for `weights` fits any.

    Args:
        actual: The key of a cache.
        wanted: The key that is asked for.

    Returns:
        A few words for each difference; none if the key fits.

    Example:
        >>> key_differences({"block": 11, "weights": "0a1b"}, {"block": 12, "weights": None})
        ['block 11 instead of 12']
    """
    names = [name for name in {**wanted, **actual} if actual.get(name) != wanted.get(name)]
    if wanted.get("weights", "") is None and "weights" in actual:
        names = [name for name in names if name != "weights"]
    return [f"{name} {_short(actual.get(name))} instead of {_short(wanted.get(name))}" for name in names]


def _short(value: Any) -> str:
    text = str(value)
    return f"{text[:12]}..." if len(text) == 64 else text
