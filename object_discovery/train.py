"""Train a model: `python -m object_discovery.train --model_type sa --dataset tetrominoes`.

Without arguments it trains Slot Attention on drawn Tetrominoes with the recommended recipe. A run leaves in `--out`:
`params.yaml` (every setting, for `--config`), `metrics.csv`, `checkpoints/{last,best}.ckpt` and `images/`.
"""

from __future__ import annotations

import csv
import itertools
import json
import logging
import math
import os
import shutil
import sys
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning import Trainer, seed_everything
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback, LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console

from object_discovery.callbacks import (
    GracefulStop,
    LastCheckpoint,
    Pictures,
    ProgressBar,
    StopOnDivergence,
    Throughput,
    ValidationLog,
    metrics_table,
)
from object_discovery.cli.flags import FlagParser, add_flags, build, fail, one_line_errors, peek_flag
from object_discovery.data import DATASETS
from object_discovery.errors import CheckpointError, UserError
from object_discovery.feature_cache import with_features
from object_discovery.files import atomic_write
from object_discovery.models import MODELS, ObjectDiscoveryModel, read_checkpoint, read_config
from object_discovery.params import DataParams, ModelParams, TrainerParams

_CHOSEN = "OBJECT_DISCOVERY_OUT"


@dataclass
class Run:
    """Everything a run is made of: the tree of parameters, merged from defaults, configuration and flags."""

    model_type: str
    trainer: TrainerParams
    data: DataParams
    model: ModelParams

    def flat(self) -> dict[str, Any]:
        """Return every setting under the name of its flag."""
        settings = {**asdict(self.trainer), **asdict(self.data), **asdict(self.model)}
        return {"model_type": self.model_type, **settings, "resume": None}


def parse(argv: Sequence[str]) -> Run:
    """Merge the settings of a run: defaults, then the dataset's, then `--config`, then flags.

    `--resume auto` without `--config` takes the `params.yaml` of the run that it continues.

    Raises:
        SystemExit: With status 2 and one line, if a flag or a value is wrong.
    """
    config_name = peek_flag(argv, "config")
    run = _merge(argv, config_name)
    if config_name is None and run.trainer.resume == "auto":
        settings = choose_folder(run) / "params.yaml"
        return _merge(argv, str(settings)) if settings.exists() else run
    return run


def _merge(argv: Sequence[str], config_name: str | None) -> Run:
    """Merge a configuration and flags over the defaults."""
    config = read_config(config_name) if config_name else {}
    model_type = peek_flag(argv, "model_type") or str(config.get("model_type", "sa"))
    dataset = peek_flag(argv, "dataset") or str(config.get("dataset", "tetrominoes"))
    if model_type not in MODELS:
        fail(f"Expected argument `model_type` to be one of {', '.join(MODELS)}, but got {model_type!r}")
    if dataset not in DATASETS:
        fail(f"Expected argument `dataset` to be one of {', '.join(DATASETS)}, but got {dataset!r}")
    params_class = MODELS[model_type].params_class
    parser = FlagParser(prog="python -m object_discovery.train", description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--model_type", default="sa", help=f"Model: {', '.join(MODELS)}.")
    parser.add_argument("--config", help="Name of a shipped configuration, or a YAML file.")
    add_flags(parser, TrainerParams, DataParams, params_class, defaults=DATASETS[dataset].recommended)
    unknown = sorted(config.keys() - vars(parser.get_defaults()).keys(), key=str)
    if unknown:
        fail(f"{config_name} has {unknown[0]!r}, which is no setting of {model_type}")
    words = [f"--{name}={_word(value)}" for name, value in config.items()]
    values = vars(parser.parse_args([*words, *argv]))
    return Run(model_type, build(TrainerParams, values), build(DataParams, values), build(params_class, values))


def _word(value: Any) -> str:
    """Write a YAML value as the command line takes it."""
    return value if isinstance(value, str) else json.dumps(value, default=str)


def precision(wanted: str, accelerator: str) -> str:
    """Choose the arithmetic: bfloat16 where the hardware multiplies it, or what the user wants.

    Args:
        wanted: Lightning's precision, or `auto`.
        accelerator: Lightning's accelerator, or `auto`.
    """
    if wanted != "auto":
        return wanted
    if accelerator != "cpu" and torch.cuda.is_available():
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    elif accelerator in ("auto", "cpu") and not torch.backends.mps.is_available():
        fast = bool(torch.cpu._is_avx512_bf16_supported())  # without it bfloat16 is emulated, and slower
    else:
        fast = False
    return "bf16-mixed" if fast else "32-true"


def build_model(run: Run) -> ObjectDiscoveryModel[Any]:
    """Build the model, and compile its networks if asked to."""
    try:
        model = MODELS[run.model_type](run.model)
    except ValueError as error:
        raise UserError(str(error)) from error
    if run.trainer.compile:
        for network in model.networks():
            network.compile()
    return model


def choose_folder(run: Run) -> Path:
    """Choose the folder of the run; all processes of a run choose the same.

    The folder named is taken as it is. By default a number is added where the folder is taken, and `--resume auto`
    takes the latest.

    Raises:
        UserError: If something else than the known names stands in braces.
    """
    if _CHOSEN in os.environ:  # set by the process that started this one
        return Path(os.environ[_CHOSEN])
    params = run.trainer
    try:
        base = params.out.format(model_type=run.model_type, dataset=run.data.dataset, seed=params.seed)
    except (LookupError, ValueError) as error:
        known = "{model_type}, {dataset} and {seed}"
        raise UserError(f"Expected argument `out` to have {known} in braces only, but got {params.out!r}") from error
    if params.out != TrainerParams.out:
        return Path(base)
    names = (Path(base if number == 1 else f"{base}_{number}") for number in itertools.count(1))
    taken = list(itertools.takewhile(Path.exists, names))
    if taken and params.resume == "auto":
        return taken[-1]
    first = int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", 0))) == 0  # only this process writes
    return Path(f"{base}_{len(taken) + 1}") if taken and first else Path(base)


@rank_zero_only
def prepare_folder(run: Run, out: Path) -> None:
    """Make the folder of the run and write `params.yaml` into it.

    Raises:
        UserError: If the folder holds another run that is not resumed.
        OSError: If it cannot be written.
    """
    if run.trainer.resume is None and (out / "checkpoints" / "last.ckpt").exists():
        raise UserError(f"{out} holds a run already: add --resume auto to continue it, or choose another --out")
    (out / "checkpoints").mkdir(parents=True, exist_ok=True)
    with atomic_write(out / "params.yaml") as beside:
        beside.write_text(yaml.safe_dump(run.flat(), sort_keys=False))


def find_resume(run: Run, out: Path, model: ObjectDiscoveryModel[Any]) -> Path | None:
    """Find the checkpoint to continue from; None to start afresh.

    Raises:
        CheckpointError: If it is missing, damaged, or of a model of another type or size.
    """
    if run.trainer.resume is None:
        return None
    path = out / "checkpoints" / "last.ckpt" if run.trainer.resume == "auto" else Path(run.trainer.resume)
    if run.trainer.resume == "auto" and not path.exists():
        return None
    checkpoint = read_checkpoint(path)
    if checkpoint["model_type"] != run.model_type:
        found = checkpoint["model_type"]
        raise CheckpointError(f"Expected a checkpoint of model type {run.model_type}, but {path} is of {found}")
    if not {"loops", "optimizer_states", "lr_schedulers"} <= checkpoint.keys():
        raise CheckpointError(f"Expected a checkpoint that training wrote, but {path} has the weights only")
    held, wanted = (
        {name: tuple(w.shape) for name, w in of.items()} for of in (checkpoint["state_dict"], model.state_dict())
    )
    different = sorted(name for name in held.keys() | wanted.keys() if held.get(name) != wanted.get(name))
    if different:
        name = different[0]
        raise CheckpointError(
            f"Expected a checkpoint of this model, but {name} of {path} is {held.get(name)} instead of "
            f"{wanted.get(name)}: continue with the settings in the params.yaml of its run"
        )
    return path


def build_loggers(run: Run, out: Path) -> list[Logger]:
    """Make the CSV logger, and the one asked for besides."""
    loggers: list[Logger] = [CSVLogger(out, name="", version="")]
    if run.trainer.logger == "tensorboard":
        loggers.append(TensorBoardLogger(out, name="", version="", default_hp_metric=False))
    elif run.trainer.logger == "wandb":
        import wandb  # here, since it takes its time

        offline = run.trainer.wandb_offline
        logger = WandbLogger(project="object_discovery", name=out.name, save_dir=out, offline=offline)
        try:
            _ = logger.experiment  # signs in now, before anything is written
        except wandb.Error as error:
            raise UserError(f"{error} (or add --wandb_offline true)") from error
        loggers.append(logger)
    return loggers


def build_callbacks(run: Run, out: Path, has_masks: bool = True) -> list[Callback]:
    """Make what accompanies a run: checkpoints (the best by the model's `monitor`), pictures, ..."""
    folder = out / "checkpoints"
    monitor, mode = MODELS[run.model_type].monitor(has_masks)
    callbacks: list[Callback] = [
        Throughput(),
        LearningRateMonitor("step"),
        ModelCheckpoint(folder, filename="best", monitor=monitor, mode=mode, enable_version_counter=False),
        LastCheckpoint(folder),
        GracefulStop(),
        StopOnDivergence(folder / "last.ckpt"),
        ValidationLog(),
    ]
    if run.trainer.num_pictures:
        callbacks.append(Pictures(out / "images", run.trainer.num_pictures))
    if sys.stdout.isatty():
        callbacks.append(ProgressBar())
    return callbacks


@rank_zero_only
def keep_metrics(trainer: Trainer, out: Path, step: int) -> None:
    """Keep what `metrics.csv` holds up to a step; Lightning would begin it anew.

    Args:
        trainer: The trainer that continues the run.
        out: Folder of the run.
        step: Step from which the run continues; lines of later steps are left out, since they come again.
    """
    path = out / "metrics.csv"
    if not path.exists():
        return
    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if (row.get("step") or "").isdigit()]
    kept = [
        row for row in rows if int(row["step"]) < step or (int(row["step"]) == step and row.get("val/active_slots"))
    ]
    logger = next(logger for logger in trainer.loggers if isinstance(logger, CSVLogger))
    logger.experiment.metrics.extend(kept)
    logger.save()


def build_trainer(run: Run, out: Path, has_masks: bool = True) -> Trainer:
    """Make Lightning's trainer.

    Args:
        run: The settings.
        out: Folder of the run.
        has_masks: Whether the scenes have label maps, by which the best checkpoint is chosen.

    Raises:
        UserError: If it does not know the precision, the strategy or such, or there are no such devices.
    """
    try:
        return _build_trainer(run, out, has_masks)
    except (ValueError, TypeError, yaml.YAMLError, MisconfigurationException) as error:
        raise UserError(str(error)) from error


def _build_trainer(run: Run, out: Path, has_masks: bool) -> Trainer:
    params = run.trainer
    devices: Any = params.devices if params.devices == "auto" else yaml.safe_load(params.devices)
    return Trainer(
        max_steps=params.max_steps,
        max_time=params.max_time,
        precision=precision(params.precision, params.accelerator),  # type: ignore[arg-type]
        accelerator=params.accelerator,
        devices=devices,
        num_nodes=params.num_nodes,
        strategy=params.strategy,
        val_check_interval=params.val_interval,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        log_every_n_steps=params.log_interval,
        logger=build_loggers(run, out),
        callbacks=build_callbacks(run, out, has_masks),
        enable_progress_bar=sys.stdout.isatty(),
        enable_model_summary=False,
        use_distributed_sampler=False,
    )


def train(run: Run) -> dict[str, float]:
    """Train, and report where everything is.

    Args:
        run: The settings, see `parse`.

    Returns:
        The scores of the last validation by their log keys.

    Raises:
        UserError: If the data, the folder or the checkpoint to resume are not as they must be.
        SystemExit: With status 128 plus the signal's number, if a signal stopped the run.
    """
    scenes = DATASETS[run.data.dataset](run.data)
    scenes.setup("fit")
    seed_everything(run.trainer.seed, verbose=False)
    model = build_model(run)
    data = with_features(scenes, model, run.trainer.accelerator)
    out = choose_folder(run)
    resume = find_resume(run, out, model)
    trainer = build_trainer(run, out, data.has_masks)
    model.check_precision(trainer.precision)
    prepare_folder(run, out)
    if resume is not None:
        keep_metrics(trainer, out, read_checkpoint(resume)["global_step"])
    if trainer.is_global_zero:
        weights = sum(parameter.numel() for parameter in model.parameters())
        print(
            f"{data.describe()}\n{run.model_type}: {weights:,} parameters, {trainer.precision}\nrun: {out}", flush=True
        )
    os.environ[_CHOSEN] = str(out)
    try:
        trainer.fit(model, datamodule=data, ckpt_path=resume, weights_only=True)
        return _finish(trainer, model, data, out)
    finally:
        os.environ.pop(_CHOSEN, None)
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.experiment.finish()  # what comes next in this process is another run


def _finish(trainer: Trainer, model: ObjectDiscoveryModel[Any], data: Any, out: Path) -> dict[str, float]:
    """Validate where the last steps were not, and say what came out."""
    last = out / "checkpoints" / "last.ckpt"
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    stop = next(callback for callback in callbacks if isinstance(callback, GracefulStop))
    if stop.received is not None and trainer.global_step < trainer.max_steps:
        if trainer.is_global_zero:
            print(
                f"stopped at step {trainer.global_step}; saved {last}; --resume auto --out {out} continues", flush=True
            )
        raise SystemExit(128 + stop.received)
    kept = next(callback for callback in callbacks if isinstance(callback, LastCheckpoint))
    late = kept.validated != trainer.global_step
    if late:
        trainer.validate(model, datamodule=data, verbose=False)
    scores = {name: float(value) for name, value in trainer.callback_metrics.items()}
    if trainer.is_global_zero:
        if late:
            _keep_if_best(last, next(c for c in callbacks if isinstance(c, ModelCheckpoint) and c.monitor), scores)
        Console().print(metrics_table(scores, "val"))
        pictures = next((callback.last for callback in callbacks if isinstance(callback, Pictures)), None)
        print(f"checkpoint: {last}\npicture: {pictures}" if pictures else f"checkpoint: {last}", flush=True)
    return scores


def _keep_if_best(last: Path, best: ModelCheckpoint, scores: dict[str, float]) -> None:
    """Copy the last checkpoint to `best.ckpt`, if the scores of a validation after the run beat all before."""
    score = scores.get(best.monitor or "", math.nan)
    sign = 1 if best.mode == "max" else -1
    before = -math.inf if best.best_model_score is None else sign * float(best.best_model_score)
    if last.exists() and sign * score > before:
        with atomic_write(last.with_name("best.ckpt")) as beside:
            shutil.copyfile(last, beside)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    warnings.filterwarnings("ignore", module="lightning")
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    with one_line_errors():
        train(parse(sys.argv[1:] if argv is None else argv))


if __name__ == "__main__":
    main()
