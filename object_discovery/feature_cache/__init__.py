"""Features of a frozen encoder, computed once and kept on the disk."""

from object_discovery.feature_cache.cache import FeatureCache
from object_discovery.feature_cache.datamodule import (
    FeatureDataModule,
    encoder_of,
    find_caches,
    no_encoder,
    with_features,
)
from object_discovery.feature_cache.dataset import CachedFeatureDataset, scene_numbers
from object_discovery.feature_cache.writer import write_features

__all__ = [
    "CachedFeatureDataset",
    "FeatureCache",
    "FeatureDataModule",
    "encoder_of",
    "find_caches",
    "no_encoder",
    "scene_numbers",
    "with_features",
    "write_features",
]
