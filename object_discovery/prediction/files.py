"""Predict the objects of image files, batch by batch."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from rich.console import Console

from object_discovery.base_params import MaskSource
from object_discovery.data.readers.image_files import read_image
from object_discovery.errors import UserError
from object_discovery.files import check_writable
from object_discovery.metrics.reconstruction import reconstruction_error
from object_discovery.models import ObjectDiscoveryModel
from object_discovery.models.base import has_capability
from object_discovery.models.loading import default_device, load_for_inference
from object_discovery.prediction.images import find_images
from object_discovery.prediction.objects import Prediction, predict
from object_discovery.prediction.output import RESULT, overview, write_prediction
from object_discovery.prediction.properties import PredictedObject, floor_plan, objects_table, predicted_objects
from object_discovery.visualization.grid import save_png

ERROR_FACTOR = 5.0
"""A reconstruction error this many times that of the validation scenes is reported."""
_OVERVIEW_ROWS = 8


def predict_files(
    paths: Sequence[str | Path],
    checkpoint: str | Path,
    out: str | Path,
    *,
    fit: str | None = None,
    num_slots: int | None = None,
    num_iterations: int | None = None,
    mask_source: MaskSource | None = None,
    limit: int | None = None,
    batch_size: int = 16,
    seed: int = 0,
    confidence: float = 0.5,
) -> list[Path]:
    """Predict the objects of image files, and write pictures, label maps, masks and boxes of each.

    No more than a batch of images is in memory at a time. Files that cannot be read are skipped with a warning.

    Args:
        paths: Images, and folders of images.
        checkpoint: A trained model.
        out: Folder of the results: a folder for each image, and `overview.png` with the first ones.
        fit: How non-square images are made square, see `predict`.
        num_slots: Number of slots. None: as trained.
        num_iterations: Iterations of Slot Attention. None: as trained.
        mask_source: Masks of the objects, see `choose_masks`. None: as trained.
        limit: Number of images, the first ones. None: all.
        batch_size: Images in a batch.
        seed: Seed of the initial slots of models that sample them.
        confidence: Least confidence of the objects that set prediction lists, in [0, 1].

    Returns:
        The images that could not be read.

    Raises:
        CheckpointError: If the checkpoint cannot be read.
        UserError: If there are no images, none can be read, or the model cannot work with the settings.
    """
    files, unreadable = find_images(paths, warn)
    files = files[:limit]
    check_writable(out, "out")
    model = load_for_inference(checkpoint, num_slots, num_iterations, mask_source)
    model = model.to(default_device())
    torch.manual_seed(seed)
    folders: set[Path] = set()
    first: list[Prediction] = []
    for start in range(0, len(files), batch_size):
        images = read_images(files[start : start + batch_size], skip=len(files) + len(unreadable) > 1)
        unreadable += [path for path in files[start : start + batch_size] if path not in images]
        predictions = predict(model, list(images.values()), fit=fit) if images else []
        for path, prediction in zip(images, predictions, strict=True):
            entries = {"image": str(path), "checkpoint": str(checkpoint), **_model_entries(model, prediction)}
            folder = _folder_for(path, Path(out), folders)
            _write(model, prediction, folder, entries, confidence)
            _warn_of_large_error(model, prediction, path)
        first += predictions[: _OVERVIEW_ROWS - len(first)]
    if not first:
        raise UserError("Expected some images, but none of the files could be read")
    path = Path(out) / "overview.png"
    save_png(overview(first), path)
    print(f"{path}: {len(first)} images together")
    return unreadable


def read_images(files: Sequence[Path], *, skip: bool = True) -> dict[Path, Image.Image]:
    """Read images as RGB.

    Args:
        files: The files.
        skip: Skip files that cannot be read, with a warning.

    Returns:
        The images that could be read.

    Raises:
        UserError: If a file cannot be read, without `skip`.
    """
    images = {}
    for path in files:
        try:
            images[path] = Image.fromarray(read_image(path))
        except UserError as error:
            if not skip:
                raise
            warn(f"skipped: {error}")
    return images


def warn(message: str) -> None:
    """Print a warning on standard error.

    Args:
        message: The message.
    """
    print(f"warning: {message}", file=sys.stderr)


def _model_entries(model: ObjectDiscoveryModel[Any], prediction: Prediction) -> dict[str, Any]:
    """Return the entries of the JSON about the model."""
    iterations = getattr(model.params, "num_iterations", None)
    return {
        "model_type": model.model_type,
        "resolution": model.params.resolution,
        "num_slots": prediction.discovery.masks.shape[1],
        "num_iterations": model.forward_options.get("num_iterations", iterations),
    }


def _write(
    model: ObjectDiscoveryModel[Any], prediction: Prediction, folder: Path, entries: dict[str, Any], confidence: float
) -> None:
    """Write the results of an image, and print their summary."""
    objects = _objects(model, prediction, confidence)
    if objects is None:
        (folder / "plan.png").unlink(missing_ok=True)  # of another model
        count = sum(not slot.background for slot in prediction.slots)
    else:
        save_png(floor_plan(objects), folder / "plan.png")
        entries = {**entries, "objects": [dataclasses.asdict(item) for item in objects]}
        count = len(objects)
    path = write_prediction(prediction, folder, entries)
    print(f"{path}: {count} {'object' if count == 1 else 'objects'}")
    if objects:
        Console().print(objects_table(objects))


def _objects(model: Any, prediction: Prediction, confidence: float) -> list[PredictedObject] | None:
    """Predict the properties of the objects. None: the model predicts none."""
    if not has_capability(model, "properties"):
        return None
    with torch.inference_mode():
        properties = model.properties(prediction.discovery.slots.to(model.device))
    return predicted_objects(properties[0], confidence)


def _warn_of_large_error(model: ObjectDiscoveryModel[Any], prediction: Prediction, path: Path) -> None:
    """Warn of an image that is reconstructed `ERROR_FACTOR` times as badly as the validation scenes."""
    expected = model.run_info.get("validation", {}).get("mse")
    image = prediction.discovery.image
    if not expected or image is None or image.shape != prediction.inputs.shape:
        return
    error = float(reconstruction_error(image, prediction.inputs))
    if error > ERROR_FACTOR * expected:
        warn(
            f"{path}: reconstruction error {error:.2g}, {error / expected:.0f} times that of the validation scenes: "
            f"the model was trained on other images ({model.run_info.get('dataset', 'unknown')})"
        )


def _folder_for(image: Path, out: Path, folders: set[Path]) -> Path:
    """Choose a folder that holds nothing but earlier results for the same image: `name`, `name_2`, ..."""
    number = 1
    while True:
        folder = out / (image.stem if number == 1 else f"{image.stem}_{number}")
        if folder not in folders and (not folder.exists() or _holds_result_of(folder, image)):
            folders.add(folder)
            return folder
        number += 1


def _holds_result_of(folder: Path, image: Path) -> bool:
    try:
        return Path(json.loads((folder / RESULT).read_text())["image"]).resolve() == image.resolve()
    except (OSError, ValueError, KeyError, TypeError):
        return False
