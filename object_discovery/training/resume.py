"""Continue a run: find its checkpoint, keep its metrics."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning import Trainer
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from object_discovery.errors import CheckpointError
from object_discovery.models import ObjectDiscoveryModel, read_checkpoint
from object_discovery.training.run import Run


def find_resume(run: Run, out: Path, model: ObjectDiscoveryModel[Any]) -> Path | None:
    """Find the checkpoint to continue from.

    Args:
        run: The settings.
        out: Folder of the run.
        model: The model that is to be trained.

    Returns:
        The checkpoint. None: start afresh.

    Raises:
        CheckpointError: If it is missing, damaged, or of a model of another type or size.
    """
    if run.trainer.resume is None:
        return None
    path = out if run.trainer.resume == "auto" else Path(run.trainer.resume)
    if run.trainer.resume == "auto" or path.is_dir():
        path = path / "checkpoints" / "last.ckpt"
    if run.trainer.resume == "auto" and not path.exists():
        return None
    checkpoint = read_checkpoint(path)
    if checkpoint["model_type"] != run.model_type:
        actual = checkpoint["model_type"]
        raise CheckpointError(f"Expected a checkpoint of model type {run.model_type}, but {path} is of {actual}")
    if not {"loops", "optimizer_states", "lr_schedulers"} <= checkpoint.keys():
        raise CheckpointError(f"Expected a checkpoint that training wrote, but {path} has the weights only")
    stored, expected = _shapes(checkpoint["state_dict"]), _shapes(model.state_dict())
    different = sorted(name for name in stored.keys() | expected.keys() if stored.get(name) != expected.get(name))
    if different:
        name = different[0]
        raise CheckpointError(
            f"Expected a checkpoint of this model, but {name} of {path} is {stored.get(name)} instead of "
            f"{expected.get(name)}: continue with the settings in the params.yaml of its run"
        )
    return path


def _shapes(weights: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(weight.shape) for name, weight in weights.items()}


@rank_zero_only
def keep_metrics(trainer: Trainer, out: Path, step: int) -> None:
    """Keep the rows of `metrics.csv` up to a step; Lightning would overwrite the file.

    Args:
        trainer: The trainer that continues the run.
        out: Folder of the run.
        step: Step from which the run continues. Rows of later steps are dropped, since they are written again.
    """
    path = out / "metrics.csv"
    if not path.exists():
        return
    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if (row.get("step") or "").isdigit()]
    earlier = [
        row for row in rows if int(row["step"]) < step or (int(row["step"]) == step and row.get("val/active_slots"))
    ]
    logger = next(logger for logger in trainer.loggers if isinstance(logger, CSVLogger))
    logger.experiment.metrics.extend(earlier)
    logger.save()
