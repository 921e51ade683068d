"""Every model by name."""

from __future__ import annotations

from typing import Any

from object_discovery.models.base import ObjectDiscoveryModel
from object_discovery.models.dinosaur import DINOSAUR
from object_discovery.models.gnm import GNM
from object_discovery.models.set_prediction import SetPrediction
from object_discovery.models.slate import SLATE
from object_discovery.models.slot_attention import SlotAttentionModel

MODELS: dict[str, type[ObjectDiscoveryModel[Any]]] = {
    "sa": SlotAttentionModel,
    "slate": SLATE,
    "gnm": GNM,
    "dinosaur": DINOSAUR,
    "set_prediction": SetPrediction,
}
"""Every model by the name the command line knows it by."""
