"""Features of a frozen encoder, computed once and kept on the disk."""

from object_discovery.features.cache import FeatureCache
from object_discovery.features.data import FeatureDataModule, encoder_of, find_caches, no_encoder, with_features
from object_discovery.features.scenes import CachedScenes, scene_numbers
from object_discovery.features.writer import write_features
from object_discovery.layers.frozen_encoder import FrozenEncoder as FeatureEncoder

__all__ = [
    "CachedScenes",
    "FeatureCache",
    "FeatureDataModule",
    "FeatureEncoder",
    "encoder_of",
    "find_caches",
    "no_encoder",
    "scene_numbers",
    "with_features",
    "write_features",
]
