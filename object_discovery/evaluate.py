"""Score a trained model: `object-discovery evaluate --checkpoint FILE [--dataset NAME --data_root PATH]`.

`--baselines true` adds the scores of trivial baselines; `--baseline NAME` scores a baseline without a model.

The dataset and its settings are those of the training run if its `params.yaml` is in the run's folder; flags override
them. Images are loaded at the resolution of the model.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from object_discovery.cli.flags import FlagParser, add_flags, build, fail, one_line_errors, peek_flag
from object_discovery.data import DATASETS
from object_discovery.errors import UserError, check_argument
from object_discovery.evaluation.baselines import BASELINES, Baseline
from object_discovery.evaluation.protocols import PROTOCOLS
from object_discovery.evaluation.report import print_report
from object_discovery.evaluation.scoring import (
    SplitDataModule,
    build_test_trainer,
    find_dataset,
    open_split,
    score_model,
)
from object_discovery.feature_cache import encoder_of, no_encoder
from object_discovery.files import atomic_write, check_writable
from object_discovery.layers.frozen_encoder import FrozenEncoder
from object_discovery.models import ObjectDiscoveryModel, read_checkpoint, read_config
from object_discovery.models.loading import find_checkpoint, load_for_inference, measure_likelihood
from object_discovery.params import DataParams, ModelParams

_DATA_FIELDS = {field.name for field in dataclasses.fields(DataParams)}


@dataclass
class EvaluateParams:
    """Settings of an evaluation."""

    checkpoint: str | None = None
    """Checkpoint of the trained model, or folder of its training run. None: score a baseline."""
    baseline: Literal["grid", "kmeans", "one"] | None = None
    """Score a baseline instead of the model: a grid of blocks, k-means, or one slot for the whole image."""
    baselines: bool = False
    """Score all baselines too, with as many slots as the model."""
    protocol: str = "default"
    """Evaluation protocol: default, slot-attention, clevrtex, dinosaur-320 or covloss-coco."""
    split: Literal["train", "val", "test"] | None = None
    """Split to score. None: that of the protocol."""
    num_slots: int | None = None
    """Number of slots. None: as in training."""
    num_iterations: int | None = None
    """Iterations of Slot Attention. None: as in training."""
    particles: int | None = None
    """Importance samples per image for the log-likelihood, for models that have one (gnm). None: no log-likelihood."""
    precision: str = "32-true"
    """Lightning's precision."""
    accelerator: str = "auto"
    """Lightning's accelerator: auto, cpu, gpu, ..."""
    devices: str = "1"
    """Lightning's devices: a number, a list such as `0,2`, or auto."""
    seed: int = 0
    """Seed of models with random slot initialisation."""
    out: str | None = None
    """JSON file to write the scores to. None: print them only."""

    def __post_init__(self) -> None:
        """Check the values."""
        if self.checkpoint is None and self.baseline is None:
            raise ValueError("Expected argument `checkpoint` to be a trained model, or `baseline` to be a name")
        if self.protocol not in PROTOCOLS:
            names = ", ".join(PROTOCOLS)
            raise ValueError(f"Expected argument `protocol` to be one of {names}, but got {self.protocol!r}")
        check_argument(
            self.num_slots is None or 1 <= self.num_slots <= 254, "num_slots", "from 1 to 254", self.num_slots
        )
        check_argument(0 <= self.seed < 2**32, "seed", "from 0 to 2**32 - 1", self.seed)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command.

    Args:
        argv: Command-line arguments. None: those of the process.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    warnings.filterwarnings("ignore", module="lightning")
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    with one_line_errors():
        parser = FlagParser(prog="object-discovery evaluate", description="Score a trained model.")
        add_flags(parser, EvaluateParams, DataParams)
        parser.set_defaults(data_defaults(peek_flag(argv, "checkpoint"), peek_flag(argv, "dataset")))
        values = vars(parser.parse_args(argv))
        params, data_params = build(EvaluateParams, values), build(DataParams, values)
        if params.out is not None:
            check_writable(Path(params.out).parent, "out")
            if Path(params.out).is_dir():
                fail(f"Expected argument `out` to be a file, but {params.out} is a folder")
        result = evaluate(params, data_params)
        if result is not None:
            print_report(result)
            if params.out is not None:
                with atomic_write(params.out) as temporary:
                    temporary.write_text(json.dumps(result, indent=2, allow_nan=False) + "\n")


def data_defaults(checkpoint: str | None, dataset: str | None) -> dict[str, Any]:
    """Return the defaults of the data flags: the dataset's recommendation, the training run's, the model's resolution.

    Args:
        checkpoint: The checkpoint or the folder of a training run. None: not given.
        dataset: The dataset. None: not given.

    Returns:
        Values of fields of `DataParams`. Those of the run are excluded if it used another dataset; its limit on the
        test split and its feature cache are always excluded.

    Raises:
        CheckpointError: If the checkpoint cannot be read.
        UserError: If the run's `params.yaml` cannot be read, or the dataset is unknown or not given.
    """
    if checkpoint is None:
        recommended = find_dataset(dataset).recommended if dataset else {}
        return {key: value for key, value in recommended.items() if key in _DATA_FIELDS}
    checkpoint_path = find_checkpoint(checkpoint)
    hyper_parameters = read_checkpoint(checkpoint_path).get("hyper_parameters", {})
    path = next((path for path in _run_params_paths(checkpoint_path) if path.is_file()), None)
    run = read_config(path) if path else {}
    if dataset is None and "dataset" not in run:
        raise UserError("Expected argument `dataset`, as no params.yaml of a training run lies by the checkpoint")
    name = dataset or run["dataset"]
    values = {**find_dataset(name).recommended, **(run if run.get("dataset") == name else {}), "dataset": name}
    values.update({"resolution": hyper_parameters["resolution"]} if "resolution" in hyper_parameters else {})
    return {key: value for key, value in values.items() if key in _DATA_FIELDS - {"test_size", "feature_cache"}}


def _run_params_paths(checkpoint: Path) -> list[Path]:
    """Return where the `params.yaml` of a run may be: above `checkpoints`, or in the folder of a copied checkpoint."""
    folder = checkpoint.absolute().parent
    folders = [folder.parent, folder] if folder.name == "checkpoints" else [folder]
    return [folder / "params.yaml" for folder in folders]


def evaluate(params: EvaluateParams, data_params: DataParams) -> dict[str, Any] | None:
    """Score a model on a split of a dataset.

    Args:
        params: Settings of the evaluation.
        data_params: Settings of the data; the resolution must be that of the model.

    Returns:
        The scores, and all that is needed to reproduce them, as plain values; None on all processes but the first.

    Raises:
        CheckpointError: If the checkpoint cannot be read.
        UserError: If the data are missing, or the model or the device does not support the settings.
    """
    protocol = PROTOCOLS[params.protocol]
    split = params.split or protocol.split
    model = _load_model(params, data_params)
    if params.particles is not None:
        measure_likelihood(model, params.particles)
    if data_params.resolution != model.params.resolution:
        expected = f"the model's, {model.params.resolution}"
        raise UserError(f"Expected argument `resolution` to be {expected}, but got {data_params.resolution}")
    data = open_split(data_params, protocol, split)
    encoder = encoder_of(model)
    if encoder is None and data.params.feature_cache != "none":
        raise no_encoder(model.model_type)
    trainer = build_test_trainer(params.accelerator, params.devices, params.precision)
    test_data = SplitDataModule(data, split, protocol.mask_size, encoder)
    scores = score_model(trainer, model, test_data, protocol, params.seed)
    baselines = {
        baseline.baseline: score_model(trainer, baseline, test_data, protocol, params.seed)
        for baseline in (_baselines_for(model, encoder) if params.baselines else [])
    }
    if not trainer.is_global_zero:
        return None
    return {
        "scores": scores,
        **({"baselines": baselines} if baselines else {}),
        "num_scenes": len(getattr(data, f"{split}_set")),
        "split": split,
        "protocol": dataclasses.asdict(protocol),
        "checkpoint": None if params.checkpoint is None else str(find_checkpoint(params.checkpoint)),
        "model_type": model.model_type,
        "dataset": dataclasses.asdict(data.params),
        "settings": _settings(params, model),
    }


def _load_model(params: EvaluateParams, data_params: DataParams) -> ObjectDiscoveryModel[Any]:
    """Load the model, or build the baseline: with the encoder of the model, if there is a model."""
    model = None
    if params.checkpoint is not None:
        model = load_for_inference(params.checkpoint, params.num_slots, params.num_iterations)
    if params.baseline is None:
        assert model is not None
        return model
    recommended = int(DATASETS[data_params.dataset].recommended.get("num_slots", ModelParams.num_slots))
    num_slots = params.num_slots or (model.params.num_slots if model is not None else recommended)
    encoder = None if model is None else encoder_of(model)
    return Baseline(params.baseline, num_slots, data_params.resolution, encoder)


def _baselines_for(model: ObjectDiscoveryModel[Any], encoder: FrozenEncoder | None) -> list[Baseline]:
    """Build all baselines with the number of slots, the resolution and the encoder of a model."""
    num_slots = model.forward_options.get("num_slots", model.params.num_slots)
    return [Baseline(name, num_slots, model.params.resolution, encoder) for name in BASELINES]


def _settings(params: EvaluateParams, model: ObjectDiscoveryModel[Any]) -> dict[str, Any]:
    """Collect the settings of the result; the numbers of slots and iterations are those in effect."""
    settings = {name: getattr(params, name) for name in ("particles", "precision", "accelerator", "devices", "seed")}
    for name in ("num_slots", "num_iterations"):
        settings[name] = model.forward_options.get(name, getattr(model.params, name, None))
    return settings


if __name__ == "__main__":
    main()
