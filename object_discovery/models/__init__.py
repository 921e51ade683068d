"""Models: one file each, a network and a LightningModule."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from object_discovery.errors import CheckpointError
from object_discovery.models.base import ObjectDiscoveryModel, read_checkpoint, read_config
from object_discovery.models.dinosaur import DINOSAUR
from object_discovery.models.gnm import GNM
from object_discovery.models.set_prediction import SetPrediction
from object_discovery.models.slate import SLATE, ConceptLibrary
from object_discovery.models.slot_attention import SlotAttentionModel

MODELS: dict[str, type[ObjectDiscoveryModel[Any]]] = {
    "sa": SlotAttentionModel,
    "slate": SLATE,
    "gnm": GNM,
    "dinosaur": DINOSAUR,
    "set_prediction": SetPrediction,
}
"""Every model by the name the command line knows it by."""


def load(path: str | Path) -> ObjectDiscoveryModel[Any]:
    """Load a checkpoint of any model onto the CPU, in evaluation mode.

    Args:
        path: A file written by training.

    Raises:
        CheckpointError: If the file is missing, damaged, or of a model this version does not know.
    """
    model_type = read_checkpoint(path)["model_type"]
    if model_type not in MODELS:
        raise CheckpointError(f"{path} is of model type {model_type!r}, which this version does not know")
    return MODELS[model_type].load_from_checkpoint(path).eval()


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
    "read_config",
]
