"""Score a trained model: `python -m object_discovery.evaluate --checkpoint FILE [--dataset NAME --data_root PATH]`.

The dataset and its settings are those of the training run where `params.yaml` lies in the run's folder; flags
override them. Images are loaded at the model's resolution.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lightning import LightningDataModule, Trainer, seed_everything
from lightning.fabric.utilities.exceptions import MisconfigurationException
from rich.console import Console
from rich.table import Table
from torch.utils.data import DataLoader

from object_discovery.cli import Parser, add_flags, build, early, fail, one_line_errors
from object_discovery.data import DATASETS, SceneDataModule
from object_discovery.data.loaders import make_loader
from object_discovery.errors import DatasetNotFoundError, UserError
from object_discovery.files import check_writable, write_beside
from object_discovery.inference import load_for_inference
from object_discovery.models import ObjectDiscoveryModel, read_checkpoint, read_config
from object_discovery.params import DataParams
from object_discovery.protocols import PROTOCOLS, Protocol, ProtocolScores

_DATA_FIELDS = {field.name for field in dataclasses.fields(DataParams)}


@dataclass
class EvaluateParams:
    """What to score, and how."""

    checkpoint: str
    """The trained model."""
    protocol: str = "default"
    """Name of the protocol (a key of `object_discovery.protocols.PROTOCOLS`)."""
    split: Literal["train", "val", "test"] | None = None
    """Split to score. None: the protocol's."""
    num_slots: int | None = None
    """Number of slots. None: as trained."""
    num_iterations: int | None = None
    """Iterations of Slot Attention. None: as trained."""
    precision: str = "32-true"
    """Lightning's precision."""
    accelerator: str = "auto"
    """Lightning's accelerator: auto, cpu, gpu, ..."""
    devices: str = "1"
    """Lightning's devices: a number, a list such as `0,2`, or auto."""
    seed: int = 0
    """Seed of models whose slots start at random."""
    out: str | None = None
    """JSON file for the scores. None: printed only."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        if self.protocol not in PROTOCOLS:
            names = ", ".join(PROTOCOLS)
            raise ValueError(f"Expected argument `protocol` to be one of {names}, but got {self.protocol!r}")


class SplitToTest(LightningDataModule):
    """Presents one split of a dataset to `Trainer.test`, each scene once and in order.

    Args:
        data: The dataset.
        split: The split.
    """

    def __init__(self, data: SceneDataModule, split: str) -> None:
        super().__init__()
        self.data = data
        self.split = split

    def test_dataloader(self) -> DataLoader[Any]:
        """Load the split; called within each process, which takes its share."""
        params = self.data.params
        scenes = getattr(self.data, f"{self.split}_set")
        return make_loader(scenes, train=False, batch_size=params.batch_size, num_workers=params.num_workers)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        argv: The arguments. None: the process's own.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    warnings.filterwarnings("ignore", module="lightning")
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    with one_line_errors():
        parser = Parser(prog="python -m object_discovery.evaluate", description="Score a trained model.")
        add_flags(parser, EvaluateParams, DataParams)
        parser.set_defaults(data_defaults(early(argv, "checkpoint"), early(argv, "dataset")))
        values = vars(parser.parse_args(argv))
        params, data_params = build(EvaluateParams, values), build(DataParams, values)
        if params.out is not None:
            check_writable(Path(params.out).parent, "out")
            if Path(params.out).is_dir():
                fail(f"Expected argument `out` to be a file, but {params.out} is a folder")
        result = evaluate(params, data_params)
        if result is not None:
            show(result)
            if params.out is not None:
                with write_beside(params.out) as beside:
                    beside.write_text(json.dumps(result, indent=2, allow_nan=False) + "\n")


def data_defaults(checkpoint: str | None, dataset: str | None) -> dict[str, Any]:
    """Find the defaults of the data flags: the dataset's own, those of the training run, the model's resolution.

    Args:
        checkpoint: The checkpoint, as far as the user gave one.
        dataset: The dataset, as far as the user named one.

    Returns:
        Values of fields of `DataParams`. Those of the run are left out if it was of another dataset, and its limit on
        the test split always.

    Raises:
        CheckpointError: If the checkpoint cannot be read.
        UserError: If the run's `params.yaml` cannot be read, or the dataset is unknown or nowhere named.
    """
    if checkpoint is None:
        return {}
    stored = read_checkpoint(checkpoint).get("hyper_parameters", {})
    path = next((p for p in (run / "params.yaml" for run in _run_folders(checkpoint)) if p.is_file()), None)
    run = read_config(path) if path else {}
    if dataset is None and "dataset" not in run:
        raise UserError("Expected argument `dataset`, as no params.yaml of a training run lies by the checkpoint")
    name = dataset or run["dataset"]
    values = {**_find(name).recommended, **(run if run.get("dataset") == name else {}), "dataset": name}
    values.update({"resolution": stored["resolution"]} if "resolution" in stored else {})
    return {key: value for key, value in values.items() if key in _DATA_FIELDS - {"test_size"}}


def evaluate(params: EvaluateParams, data_params: DataParams) -> dict[str, Any] | None:
    """Score a model on a split of a dataset.

    Args:
        params: What to score, and how.
        data_params: The dataset; its resolution must be the model's.

    Returns:
        The scores, and all that is needed to get them again, as plain values; None on all processes but the first.

    Raises:
        CheckpointError: If the checkpoint cannot be read.
        UserError: If the data are not there, or the model or this machine cannot work with the settings.
    """
    protocol = PROTOCOLS[params.protocol]
    split = params.split or protocol.split
    model = load_for_inference(params.checkpoint, params.num_slots, params.num_iterations)
    if data_params.resolution != model.params.resolution:
        expected = f"the model's, {model.params.resolution}"
        raise UserError(f"Expected argument `resolution` to be {expected}, but got {data_params.resolution}")
    data = _open(data_params, protocol, split)
    trainer = _trainer(params)
    seed_everything(params.seed, verbose=False)
    model.scores["test"] = ProtocolScores(protocol, model.own_scores)
    results = trainer.test(model, SplitToTest(data, split), verbose=False)
    if not trainer.is_global_zero:
        return None
    scores = {name.removeprefix("test/"): float(value) for name, value in results[0].items()}
    return {
        "scores": {name: None if math.isnan(value) else value for name, value in scores.items()},
        "num_scenes": len(getattr(data, f"{split}_set")),
        "split": split,
        "protocol": dataclasses.asdict(protocol),
        "checkpoint": params.checkpoint,
        "model_type": model.model_type,
        "dataset": dataclasses.asdict(data.params),
        "settings": _settings(params, model),
    }


def show(result: Mapping[str, Any]) -> None:
    """Print a result as a table."""
    protocol, data = result["protocol"], result["dataset"]
    table = Table("score", "value")
    for name, value in result["scores"].items():
        table.add_row(name, "none" if value is None else f"{value:.0f}" if name == "n_skipped" else f"{value:.4f}")
    print(f"{data['dataset']}, {result['split']} split: {result['num_scenes']:,} scenes")
    print(f"protocol {protocol['name']}: {protocol['description']}")
    Console().print(table)


def _run_folders(checkpoint: str) -> list[Path]:
    """Return where `params.yaml` may lie: above `checkpoints`, or next to a checkpoint that was copied with it."""
    folder = Path(checkpoint).absolute().parent
    return [folder.parent, folder] if folder.name == "checkpoints" else [folder]


def _find(dataset: str) -> type[SceneDataModule]:
    if dataset not in DATASETS:
        names = ", ".join(DATASETS)
        raise DatasetNotFoundError(f"Expected argument `dataset` to be one of {names}, but got {dataset!r}")
    return DATASETS[dataset]


def _open(params: DataParams, protocol: Protocol, split: str) -> SceneDataModule:
    """Open the split, at most as many scenes as the protocol scores."""
    if protocol.num_scenes is not None:
        limit = min(protocol.num_scenes, getattr(params, f"{split}_size") or protocol.num_scenes)
        sizes: dict[str, Any] = {f"{split}_size": limit}
        params = dataclasses.replace(params, **sizes)
    data = _find(params.dataset)(params)
    getattr(data, f"{split}_set")
    return data


def _trainer(params: EvaluateParams) -> Trainer:
    try:
        return Trainer(
            accelerator=params.accelerator,
            devices=params.devices,
            precision=params.precision,  # type: ignore[arg-type]
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=sys.stderr.isatty(),
            use_distributed_sampler=False,
        )
    except (MisconfigurationException, ValueError, TypeError) as error:
        raise UserError(str(error)) from error


def _settings(params: EvaluateParams, model: ObjectDiscoveryModel[Any]) -> dict[str, Any]:
    """Note what was asked for; for slots and iterations what that comes to."""
    settings = {name: getattr(params, name) for name in ("precision", "accelerator", "devices", "seed")}
    for name in ("num_slots", "num_iterations"):
        settings[name] = model.forward_options.get(name, getattr(model.params, name, None))
    return settings


if __name__ == "__main__":
    main()
