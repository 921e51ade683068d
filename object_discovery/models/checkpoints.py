"""Read checkpoints without running any code in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from object_discovery.errors import CheckpointError


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU without running any code of it.

    Raises:
        CheckpointError: If it is missing, damaged, or not one of this library's.
    """
    if not Path(path).is_file():
        raise CheckpointError(f"There is no checkpoint at {path}")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler raises many types
        raise CheckpointError(
            f"{path} is not a checkpoint that can be read: it is damaged or of another kind"
        ) from error
    if not isinstance(checkpoint, dict) or "model_type" not in checkpoint:
        raise CheckpointError(f"{path} is not a checkpoint of this library")
    return checkpoint
