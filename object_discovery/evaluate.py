"""Score a trained model: `python -m object_discovery.evaluate --checkpoint FILE [--dataset NAME --data_root PATH]`.

`--baselines true` scores next to it what every method must beat; `--baseline NAME` does without a model.

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

from object_discovery.cli.flags import FlagParser, add_flags, apply_config, build, fail, one_line_errors, peek_flag
from object_discovery.data import DATASETS, SceneDataModule
from object_discovery.data.loaders import make_loader
from object_discovery.data.resized_targets import ResizedTargetDataset
from object_discovery.errors import DatasetNotFoundError, UserError, check_argument
from object_discovery.evaluation.baselines import BASELINES, Baseline
from object_discovery.evaluation.protocols import PROTOCOLS, Protocol, ProtocolScores
from object_discovery.feature_cache import (
    CachedFeatureDataset,
    FeatureEncoder,
    encoder_of,
    find_caches,
    no_encoder,
    scene_numbers,
)
from object_discovery.files import atomic_write, check_writable
from object_discovery.models import ObjectDiscoveryModel, read_checkpoint, read_config
from object_discovery.models.loading import load_for_inference, measure_likelihood
from object_discovery.params import DataParams, ModelParams

_DATA_FIELDS = {field.name for field in dataclasses.fields(DataParams)}


@dataclass
class EvaluateParams:
    """What to score, and how."""

    checkpoint: str | None = None
    """The trained model. None: a baseline alone."""
    baseline: Literal["grid", "kmeans", "one"] | None = None
    """Score a baseline instead (see `evaluation.baselines`): a grid of blocks, k-means, or one slot."""
    baselines: bool = False
    """Score every baseline besides, with as many slots, to stand next to the model."""
    protocol: str = "default"
    """Name of the protocol (a key of `evaluation.protocols.PROTOCOLS`)."""
    split: Literal["train", "val", "test"] | None = None
    """Split to score. None: the protocol's."""
    num_slots: int | None = None
    """Number of slots. None: as trained."""
    num_iterations: int | None = None
    """Iterations of Slot Attention. None: as trained."""
    particles: int | None = None
    """Estimate the log-likelihood of each image with as many samples, of models that have one (gnm). None: do not."""
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
        if self.checkpoint is None and self.baseline is None:
            raise ValueError("Expected argument `checkpoint` to be a trained model, or `baseline` to be a name")
        if self.protocol not in PROTOCOLS:
            names = ", ".join(PROTOCOLS)
            raise ValueError(f"Expected argument `protocol` to be one of {names}, but got {self.protocol!r}")
        check_argument(
            self.num_slots is None or 1 <= self.num_slots <= 254, "num_slots", "from 1 to 254", self.num_slots
        )
        check_argument(0 <= self.seed < 2**32, "seed", "from 0 to 2**32 - 1", self.seed)


class SplitToTest(LightningDataModule):
    """Presents one split of a dataset to `Trainer.test`, each scene once and in order.

    Args:
        data: The dataset.
        split: The split.
        mask_size: Height and width of the label maps. None: those of the images.
        encoder: The encoder whose cached features come with the scenes, if the settings name a cache.
    """

    def __init__(
        self, data: SceneDataModule, split: str, mask_size: int | None = None, encoder: FeatureEncoder | None = None
    ) -> None:
        super().__init__()
        self.data = data
        self.split = split
        self.mask_size = mask_size
        self.caches = {} if encoder is None else find_caches(data, encoder, [split])

    def test_dataloader(self) -> DataLoader[Any]:
        """Load the split; called within each process, which takes its share."""
        params = self.data.params
        stored = getattr(self.data, f"{self.split}_set")
        scenes = stored if self.mask_size is None else ResizedTargetDataset(stored, self.mask_size)
        if self.split in self.caches:
            scenes = CachedFeatureDataset(scenes, self.caches[self.split], scene_numbers(stored))
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
        parser = FlagParser("object-discovery evaluate", "Score a trained model.")
        add_flags(parser, EvaluateParams, DataParams)
        defaults = data_defaults(peek_flag(argv, "checkpoint"), peek_flag(argv, "dataset"))
        apply_config(parser, defaults, "params.yaml", "evaluate")
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
                with atomic_write(params.out) as beside:
                    beside.write_text(json.dumps(result, indent=2, allow_nan=False) + "\n")


def data_defaults(checkpoint: str | None, dataset: str | None) -> dict[str, Any]:
    """Find the defaults of the data flags: the dataset's own, those of the training run, the model's resolution.

    Args:
        checkpoint: The checkpoint, as far as the user gave one.
        dataset: The dataset, as far as the user named one.

    Returns:
        Values of fields of `DataParams`. Those of the run are left out if it was of another dataset, and its limit on
        the test split and its feature cache always.

    Raises:
        CheckpointError: If the checkpoint cannot be read.
        UserError: If the run's `params.yaml` cannot be read, or the dataset is unknown or nowhere named.
    """
    if checkpoint is None:
        known = _find(dataset).recommended if dataset else {}
        return {key: value for key, value in known.items() if key in _DATA_FIELDS}
    stored = read_checkpoint(checkpoint).get("hyper_parameters", {})
    path = next((p for p in (run / "params.yaml" for run in _run_folders(checkpoint)) if p.is_file()), None)
    run = read_config(path) if path else {}
    if dataset is None and "dataset" not in run:
        raise UserError("Expected argument `dataset`, as no params.yaml of a training run lies by the checkpoint")
    name = dataset or run["dataset"]
    values = {**_find(name).recommended, **(run if run.get("dataset") == name else {}), "dataset": name}
    values.update({"resolution": stored["resolution"]} if "resolution" in stored else {})
    return {key: value for key, value in values.items() if key in _DATA_FIELDS - {"test_size", "feature_cache"}}


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
    model = _model(params, data_params)
    if params.particles is not None:
        measure_likelihood(model, params.particles)
    if data_params.resolution != model.params.resolution:
        expected = f"the model's, {model.params.resolution}"
        raise UserError(f"Expected argument `resolution` to be {expected}, but got {data_params.resolution}")
    data = _open(data_params, protocol, split)
    encoder = encoder_of(model)
    if encoder is None and data.params.feature_cache != "none":
        raise no_encoder(model.model_type)
    trainer = _trainer(params)
    test_data = SplitToTest(data, split, protocol.mask_size, encoder)
    scores = _score(trainer, model, test_data, protocol, params.seed)
    found = {
        baseline.baseline: _score(trainer, baseline, test_data, protocol, params.seed)
        for baseline in (_beside(model, encoder) if params.baselines else [])
    }
    if not trainer.is_global_zero:
        return None
    return {
        "scores": scores,
        **({"baselines": found} if found else {}),
        "num_scenes": len(getattr(data, f"{split}_set")),
        "split": split,
        "protocol": dataclasses.asdict(protocol),
        "checkpoint": params.checkpoint,
        "model_type": model.model_type,
        "dataset": dataclasses.asdict(data.params),
        "settings": _settings(params, model),
    }


def _model(params: EvaluateParams, data_params: DataParams) -> ObjectDiscoveryModel[Any]:
    """Load the model, or make the baseline: on the features of the model's encoder, if there is a model."""
    model = None
    if params.checkpoint is not None:
        model = load_for_inference(params.checkpoint, params.num_slots, params.num_iterations)
    if params.baseline is None:
        assert model is not None
        return model
    recommended = int(DATASETS[data_params.dataset].recommended.get("num_slots", ModelParams.num_slots))
    trained = model.params.num_slots if model is not None else recommended
    encoder = None if model is None else encoder_of(model)
    return Baseline(params.baseline, params.num_slots or trained, data_params.resolution, encoder)


def _beside(model: ObjectDiscoveryModel[Any], encoder: FeatureEncoder | None) -> list[Baseline]:
    """Make the baselines that a model is compared with."""
    num_slots = model.forward_options.get("num_slots", model.params.num_slots)
    return [Baseline(name, num_slots, model.params.resolution, encoder) for name in BASELINES]


def _score(
    trainer: Trainer, model: ObjectDiscoveryModel[Any], data: SplitToTest, protocol: Protocol, seed: int
) -> dict[str, float | None]:
    """Score one model; scores that are not numbers are None."""
    seed_everything(seed, verbose=False)
    model.scores["test"] = ProtocolScores(protocol, model.extra_metrics())
    results = trainer.test(model, data, verbose=False)
    values = {name.removeprefix("test/"): float(value) for name, value in results[0].items()}
    return {name: None if math.isnan(value) else value for name, value in values.items()}


def show(result: Mapping[str, Any]) -> None:
    """Print a result as a table."""
    protocol, data = result["protocol"], result["dataset"]
    beside: Mapping[str, Mapping[str, float | None]] = result.get("baselines", {})
    table = Table("score", "value" if not beside else result["model_type"], *beside)
    for name in result["scores"]:
        columns = (result["scores"], *beside.values())
        table.add_row(name, *(_shown(name, scores) for scores in columns))
    print(f"{data['dataset']}, {result['split']} split: {result['num_scenes']:,} scenes")
    print(f"protocol {protocol['name']}: {protocol['description']}")
    Console().print(table)


def _shown(name: str, scores: Mapping[str, float | None]) -> str:
    if name not in scores:
        return ""
    value = scores[name]
    return "none" if value is None else f"{value:.0f}" if name == "n_skipped" else f"{value:.4f}"


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
    """Open the split as the protocol wants it: at most as many scenes as it scores, squashed or cropped."""
    if protocol.fit is not None:
        params = dataclasses.replace(params, fit=protocol.fit)
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
    settings = {name: getattr(params, name) for name in ("particles", "precision", "accelerator", "devices", "seed")}
    for name in ("num_slots", "num_iterations"):
        settings[name] = model.forward_options.get(name, getattr(model.params, name, None))
    return settings


if __name__ == "__main__":
    main()
