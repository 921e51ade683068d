"""The command line of `predict.py`: find the objects in image files."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from rich.console import Console

from object_discovery.cli.flags import FlagParser, add_flags, build, fail, one_line_errors
from object_discovery.errors import CorruptFileError, UserError, check_argument, check_at_least
from object_discovery.files import check_writable
from object_discovery.models import ObjectDiscoveryModel, SetPrediction
from object_discovery.models.loading import load_for_inference
from object_discovery.prediction.compose import MOST_IMAGES, compose
from object_discovery.prediction.generate import generate
from object_discovery.prediction.images import ImageFile, find_images, read_image
from object_discovery.prediction.objects import Prediction, predict
from object_discovery.prediction.output import RESULT, overview, write_prediction
from object_discovery.prediction.properties import PredictedObject, objects_table, plan, predicted_objects
from object_discovery.pretrained import CHECKPOINT, SCENES
from object_discovery.visualization.grid import save_png

_ROWS = 8


@dataclass
class PredictParams:
    """What to predict with, and where the results go."""

    checkpoint: str | None = None
    """The trained model."""
    out: str = "predictions"
    """Folder for the results; each image gets a folder of its name in it."""
    num_slots: int | None = None
    """Number of slots. None: as trained."""
    num_iterations: int | None = None
    """Iterations of Slot Attention. None: as trained."""
    limit: int | None = None
    """Take the first images only. None: all."""
    batch_size: int = 16
    """Images that go through the model together."""
    seed: int = 0
    """Seed of models whose slots start at random."""
    confidence: float = 0.5
    """How sure set prediction must be of an object to list it, in [0, 1]."""
    generate: int | None = None
    """Imagine as many scenes instead, with a model that can (gnm). None: find the objects in images."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        check_at_least(self, 1, "limit", "batch_size")
        check_argument(0 <= self.confidence <= 1, "confidence", "in [0, 1]", self.confidence)
        check_argument(0 <= self.seed < 2**32, "seed", "from 0 to 2**32 - 1", self.seed)


def main(
    argv: Sequence[str] | None = None,
    *,
    checkpoint: str | Path | None = CHECKPOINT,
    images: Sequence[str | Path] = (SCENES,),
) -> None:
    """Run the command line.

    Args:
        argv: The arguments. None: the process's own.
        checkpoint: The model to use where the arguments name none; by default the shipped one.
        images: The images and folders to use where the arguments name none; by default the shipped scenes.
    """
    parser = FlagParser(prog="predict.py", description="Find the objects in images of any size.")
    parser.add_argument("images", nargs="*", metavar="IMAGE|FOLDER", help="images, and folders that hold some")
    add_flags(parser, PredictParams, defaults={"checkpoint": str(checkpoint)} if checkpoint else None)
    parser.add_argument("--crop", action="store_true", help="see the central square only, not the squashed image")
    parser.add_argument("--compose", action="store_true", help="compose scenes of slots of the images instead (slate)")
    values = vars(parser.parse_args(argv))
    params = build(PredictParams, values)
    if params.checkpoint is None:
        fail("Expected a trained model: give one as `--checkpoint FILE`")
    if params.generate is not None:
        _check_generate(params, values)
    with one_line_errors():
        if params.generate is not None:
            check_writable(params.out, "out")
            print(
                generate(params.checkpoint, params.generate, params.out, num_slots=params.num_slots, seed=params.seed)
            )
            return
        files = find_images(values["images"] or images, _warn)[: params.limit]
        check_writable(params.out, "out")
        if values["compose"]:
            numbers = {name: getattr(params, name) for name in ("num_slots", "num_iterations", "seed")}
            scenes = list(_read(files[:MOST_IMAGES]).values())
            print(compose(params.checkpoint, scenes, params.out, crop=values["crop"], **numbers))
            return
        _predict_files(params, params.checkpoint, files, values["crop"])


def _check_generate(params: PredictParams, values: dict[str, Any]) -> None:
    """Refuse what means nothing where scenes are imagined."""
    given = [name for name in ("images", "compose", "crop") if values[name]]
    unused, defaults = ("num_iterations", "limit", "batch_size", "confidence"), PredictParams()
    given += [name for name in unused if getattr(params, name) != getattr(defaults, name)]
    if given:
        fail(f"Expected argument `generate` without `{given[0]}`: scenes are imagined from nothing")


def _predict_files(params: PredictParams, checkpoint: str, files: list[ImageFile], crop: bool) -> None:
    """Predict batch by batch, so that no more images than a batch are held."""
    model = load_for_inference(checkpoint, params.num_slots, params.num_iterations)
    model = model.to("cuda" if torch.cuda.is_available() else "cpu")
    about = {
        "checkpoint": checkpoint,
        "model_type": model.model_type,
        "resolution": model.params.resolution,
        **{
            name: value for name, value in dataclasses.asdict(params).items() if name in ("num_slots", "num_iterations")
        },
    }
    torch.manual_seed(params.seed)
    taken: set[Path] = set()
    rows: list[Prediction] = []
    for start in range(0, len(files), params.batch_size):
        images = _read(files[start : start + params.batch_size])
        found = predict(model, list(images.values()), crop=crop) if images else []
        for path, prediction in zip(images, found, strict=True):
            folder = _folder_for(path, Path(params.out), taken)
            described = _describe(model, prediction, params.confidence)
            entries = {} if described is None else {"objects": [dataclasses.asdict(found) for found in described]}
            _draw_plan(described, folder / "plan.png")
            shown = write_prediction(prediction, folder, {"image": str(path), **about, **entries})
            count = sum(not slot.background for slot in prediction.slots) if described is None else len(described)
            print(f"{shown}: {count} {'object' if count == 1 else 'objects'}")
            if described:
                Console().print(objects_table(described))
        rows += found[: _ROWS - len(rows)]
    if not rows:
        raise UserError("Expected some images, but none of the files could be read")
    together = Path(params.out) / "overview.png"
    save_png(overview(rows), together)
    print(f"{together}: {len(rows)} images together")


def _describe(
    model: ObjectDiscoveryModel[Any], prediction: Prediction, confidence: float
) -> list[PredictedObject] | None:
    """Say what the objects are, if the model can."""
    if not isinstance(model, SetPrediction):
        return None
    with torch.inference_mode():
        return predicted_objects(model.properties(prediction.found.slots.to(model.device))[0], confidence)


def _draw_plan(described: list[PredictedObject] | None, path: Path) -> None:
    """Draw where objects stand, or remove what an earlier run has drawn."""
    if described is None:
        path.unlink(missing_ok=True)
    else:
        save_png(plan(described), path)


def _read(files: Sequence[ImageFile]) -> dict[Path, Image.Image]:
    """Read the images of a batch; a damaged one is an error if the user named it, else it is skipped."""
    images = {}
    for file in files:
        try:
            images[file.path] = read_image(file.path)
        except CorruptFileError as error:
            if file.named:
                raise
            _warn(f"skipped: {error}")
    return images


def _folder_for(image: Path, out: Path, taken: set[Path]) -> Path:
    """Choose a folder that holds nothing but earlier results for the same image: `name`, `name_2`, ..."""
    number = 1
    while True:
        folder = out / (image.stem if number == 1 else f"{image.stem}_{number}")
        if folder not in taken and (not folder.exists() or _is_of(folder, image)):
            taken.add(folder)
            return folder
        number += 1


def _is_of(folder: Path, image: Path) -> bool:
    try:
        return Path(json.loads((folder / RESULT).read_text())["image"]).resolve() == image.resolve()
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _warn(message: str) -> None:
    print(f"warning: {message}", file=sys.stderr)


if __name__ == "__main__":
    main()
