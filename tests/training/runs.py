"""Small training runs and readers of their output."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch

from object_discovery.train import parse
from object_discovery.training.fit import train
from tests.models.tiny import TINY

EPOCH = 5
"""Steps in an epoch."""
VALIDATION_COLUMNS = ("step", "epoch", "val/mse", "val/fg_ari")
VALIDATION_SCORES = {"val/fg_ari", "val/ari", "val/mbo_i", "val/miou", "val/mse", "val/active_slots", "val/n_skipped"}
IGNORE_WARNINGS = [
    pytest.mark.filterwarnings("ignore:(Experiment logs|Checkpoint) directory"),
    pytest.mark.filterwarnings("ignore:You have overridden `on_after_batch_transfer`"),
]


def flags(**settings: Any) -> list[str]:
    """Write settings as flags."""
    return [f"--{name}={'null' if value is None else value}" for name, value in settings.items()]


def tiny_flags(out: Path | str, **settings: Any) -> list[str]:
    """Return the flags of a small run: five steps in an epoch, a validation every three steps."""
    machine = {"out": out, "accelerator": "cpu", "devices": 1, "precision": "32-true", "num_workers": 0}
    size = {"batch_size": 4, "train_size": 4 * EPOCH, "val_size": 6, "max_steps": 4, "decay_steps": 20}
    intervals = {"val_interval": 3, "log_interval": 1, "num_pictures": 2}
    return flags(**{**TINY["sa"], **machine, **size, **intervals, **settings})


def fit(out: Path, **settings: Any) -> dict[str, float]:
    """Train a small run."""
    return train(parse(tiny_flags(out, **settings)))


def read_metrics(out: Path, *names: str) -> list[tuple[str, ...]]:
    """Read columns of `metrics.csv`, the rows in which all of them have a value."""
    with (out / "metrics.csv").open(newline="") as file:
        rows = [tuple(row[name] for name in names) for row in csv.DictReader(file)]
    return [row for row in rows if all(row)]


def load_checkpoint(out: Path, name: str = "last") -> dict[str, Any]:
    """Read a checkpoint of a run."""
    checkpoint: dict[str, Any] = torch.load(out / "checkpoints" / f"{name}.ckpt", weights_only=True)
    return checkpoint


def weights_and_moments(out: Path) -> list[torch.Tensor]:
    """Return the weights and Adam's moments of the last checkpoint."""
    checkpoint = load_checkpoint(out)
    moments = [value for state in checkpoint["optimizer_states"][0]["state"].values() for value in state.values()]
    return [*checkpoint["state_dict"].values(), *moments]
