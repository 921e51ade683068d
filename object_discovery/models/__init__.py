"""Models: one file each, a network and a LightningModule."""

from __future__ import annotations

from object_discovery.models.base import ObjectDiscoveryModel
from object_discovery.models.checkpoints import read_checkpoint
from object_discovery.models.dinosaur import DINOSAUR
from object_discovery.models.gnm import GNM
from object_discovery.models.loading import load
from object_discovery.models.registry import MODELS
from object_discovery.models.set_prediction import SetPrediction
from object_discovery.models.slate import SLATE, ConceptLibrary
from object_discovery.models.slot_attention import SlotAttentionModel

__all__ = [
    "DINOSAUR",
    "GNM",
    "MODELS",
    "SLATE",
    "ConceptLibrary",
    "ObjectDiscoveryModel",
    "SetPrediction",
    "SlotAttentionModel",
    "load",
    "read_checkpoint",
]
