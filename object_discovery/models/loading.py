"""Loading of trained models."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, cast

import torch

from object_discovery.base_params import MaskSource
from object_discovery.errors import CheckpointError, UserError
from object_discovery.models.base import ObjectDiscoveryModel, has_capability
from object_discovery.models.checkpoints import read_checkpoint
from object_discovery.models.registry import MODELS


def find_checkpoint(path: str | Path) -> Path:
    """Find the checkpoint at a path.

    Args:
        path: A checkpoint, or the folder of a training run.

    Returns:
        The checkpoint; of a folder `checkpoints/best.ckpt` or, without one, `checkpoints/last.ckpt`.

    Raises:
        CheckpointError: If the folder has neither.
    """
    path = Path(path)
    if not path.is_dir():
        return path
    candidates = [path / "checkpoints" / name for name in ("best.ckpt", "last.ckpt")]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise CheckpointError(f"Expected a run folder with {candidates[0].relative_to(path)}, but {path} has none")


def load(path: str | Path) -> ObjectDiscoveryModel[Any]:
    """Load a checkpoint of any model onto the CPU, in evaluation mode.

    Args:
        path: A checkpoint, or the folder of a training run, see `find_checkpoint`.

    Raises:
        CheckpointError: If the file is missing, damaged, or of a model that this version does not know.
    """
    path = find_checkpoint(path)
    model_type = read_checkpoint(path)["model_type"]
    if model_type not in MODELS:
        raise CheckpointError(f"{path} is of model type {model_type!r}, which this version does not know")
    return MODELS[model_type].load_from_checkpoint(path).eval()


def load_for_inference(
    path: str | Path,
    num_slots: int | None = None,
    num_iterations: int | None = None,
    mask_source: MaskSource | None = None,
) -> ObjectDiscoveryModel[Any]:
    """Load a checkpoint of any model onto the CPU, and check the options on one blank image.

    Args:
        path: A file written by training.
        num_slots: Number of slots. None: as in training.
        num_iterations: Iterations of Slot Attention. None: as in training.
        mask_source: Masks of the model's output, see `choose_masks`. None: as in training.

    Returns:
        The model in evaluation mode; its `forward_options` hold the options given.

    Raises:
        CheckpointError: If the file is missing, damaged, or of a model this version does not know.
        UserError: If the model does not support these options.
    """
    model = load(path)
    given = {"num_slots": num_slots, "num_iterations": num_iterations}
    model.forward_options = {name: value for name, value in given.items() if value is not None}
    size = model.params.resolution
    try:
        if mask_source is not None:
            if not hasattr(model.params, "mask_source"):
                raise UserError(f"Expected no argument `mask_source`, as {model.model_type} has one kind of masks only")
            model.params = dataclasses.replace(model.params, mask_source=mask_source)
        with torch.no_grad():
            model(torch.zeros(1, 3, size, size), **model.forward_options)
    except (ValueError, TypeError) as error:
        raise UserError(str(error)) from error
    return model


def default_device() -> torch.device:
    """Return the device of inference: the GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def measure_likelihood(model: ObjectDiscoveryModel[Any], num_particles: int) -> None:
    """Make `Trainer.test` estimate the log-likelihood of each image, logged as `test/log_likelihood`.

    Raises:
        UserError: If the model has no likelihood, or `num_particles` is below 1.
    """
    if not has_capability(model, "log_likelihood"):
        raise UserError(
            "Expected argument `particles` with a model that has a likelihood of images, such as gnm, but got one of "
            f"type {model.model_type}"
        )
    if num_particles < 1:
        raise UserError(f"Expected argument `particles` to be at least 1, but got {num_particles}")
    cast(Any, model).num_particles = num_particles
