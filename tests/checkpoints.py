"""Small models and checkpoints for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from object_discovery import SlotAttentionModel
from object_discovery.discovery import Discovery
from object_discovery.models import ObjectDiscoveryModel
from object_discovery.params import ModelParams


def tiny_model(**settings: Any) -> SlotAttentionModel:
    """Return Slot Attention for 16 x 16 pixels with fixed weights."""
    torch.manual_seed(0)
    shape = {"resolution": 16, "num_slots": 3, "slot_size": 16, "encoder_channels": [8, 8], "encoder_strides": [2, 1]}
    return SlotAttentionModel(**{**shape, "slot_init": "learned", **settings}).eval()


def save_tiny(path: Path, **changes: Any) -> Path:
    """Save a checkpoint of `tiny_model` with some entries changed; None removes an entry."""
    model = tiny_model()
    checkpoint: dict[str, Any] = {
        "state_dict": model.state_dict(),
        "hyper_parameters": dict(model.hparams),
        "model_type": "sa",
        "pytorch-lightning_version": "2.5.0",
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({key: value for key, value in (checkpoint | changes).items() if value is not None}, path)
    return path


class ByColour(ObjectDiscoveryModel[ModelParams]):
    """Model with known masks: red in slot 0, green in slot 1 and blue in slot 2."""

    model_type: ClassVar[str] = "by_colour"
    params_class: ClassVar[type[ModelParams]] = ModelParams

    def forward(self, images: Tensor, **options: Any) -> Discovery:
        """Assign each pixel to the slot of its strongest colour channel."""
        return Discovery(images.new_zeros(len(images), 3, 4), (images * 50).softmax(1), images)
