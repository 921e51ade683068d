"""Small models, small data and a quiet trainer for the tests of models."""

from typing import Any

import torch
from lightning import Trainer
from torch import Tensor

from object_discovery import TetrominoesDataModule
from object_discovery.data.dataset import SceneGenerator
from object_discovery.models import MODELS, ObjectDiscoveryModel

SIZE = 16
"""Height and width of the images."""
SLOTS = 3

BROADCAST: dict[str, Any] = {"slot_centric": False, "decoder_channels": [8], "decoder_strides": [2]}
"""Settings of `sa` with a tiny spatial broadcast decoder."""

TINY: dict[str, dict[str, Any]] = {
    "sa": {
        "resolution": SIZE,
        "num_slots": SLOTS,
        "slot_size": 16,
        "mlp_size": 16,
        "encoder_channels": [8],
        "encoder_strides": [2],
        "warmup_steps": 2,
    },
    "set_prediction": {
        "resolution": SIZE,
        "num_slots": SLOTS,
        "slot_size": 16,
        "mlp_size": 16,
        "head_size": 16,
        "slot_init": "learned",
        "encoder_channels": [8],
        "encoder_strides": [2],
        "warmup_steps": 2,
    },
    "dinosaur": {
        "resolution": SIZE,
        "num_slots": SLOTS,
        "slot_size": 16,
        "mlp_size": 16,
        "encoder": "test_efficientnet",
        "encoder_weights": "none",
        "encoder_block": 2,
        "decoder_size": 16,
        "decoder_top_k": 2,
        "warmup_steps": 2,
    },
    "gnm": {
        "resolution": SIZE,
        "num_slots": SLOTS,
        "grid": 2,
        "hidden_size": 16,
        "glimpse_size": 8,
        "what_size": 8,
        "background_size": 4,
        "global_size": 4,
        "global_steps": 2,
        "warmup_steps": 2,
    },
    "slate": {
        "resolution": SIZE,
        "num_slots": SLOTS,
        "slot_size": 16,
        "mlp_size": 16,
        "codebook_size": 8,
        "model_size": 16,
        "decoder_blocks": 2,
        "decoder_heads": 2,
        "warmup_steps": 2,
        "dvae_steps": 0,
        "cluster_init": False,
    },
}
"""Settings of a small model of each type."""


def make_model(model_type: str, **settings: Any) -> ObjectDiscoveryModel[Any]:
    torch.manual_seed(0)
    return MODELS[model_type](**{**TINY[model_type], **settings})


def make_images(batch: int = 2) -> Tensor:
    return torch.rand(batch, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


def make_objects(batch: int = 2) -> Tensor:
    """Describe the objects of scenes: one, two or none, and padding."""
    generator = torch.Generator().manual_seed(2)
    objects = torch.zeros(batch, SLOTS, 19)
    objects[..., :3] = torch.rand(batch, SLOTS, 3, generator=generator)
    for start, end in ((3, 5), (5, 7), (7, 10), (10, 18)):
        code = torch.randint(start, end, (batch, SLOTS, 1), generator=generator)
        objects.scatter_(2, code, 1)
    objects[..., 18] = 1
    return objects * (torch.arange(SLOTS) < (1 + torch.arange(batch)[:, None]) % 3)[..., None]


class TinyData(TetrominoesDataModule):
    """Tetrominoes with random object properties."""

    @classmethod
    def _scene_generator(
        cls, seed: int, variant: str | None, counts: tuple[int, int], resolution: int
    ) -> SceneGenerator | None:
        generate = super()._scene_generator(seed, variant, counts, resolution)
        assert generate is not None
        return lambda indices: (*generate(indices)[:2], {"objects": make_objects(len(indices)).numpy()})


def make_data(**settings: Any) -> TetrominoesDataModule:
    """Generate few scenes: two batches to train, two to validate, one to test."""
    sizes = {"batch_size": 4, "train_size": 8, "val_size": 6, "test_size": 4, "resolution": SIZE, "num_workers": 0}
    return TinyData(**{**sizes, **settings})


def make_trainer(max_steps: int, **settings: Any) -> Trainer:
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "accelerator": "cpu",
        "num_sanity_val_steps": 0,
    }
    return Trainer(max_steps=max_steps, **{**quiet, **settings})
