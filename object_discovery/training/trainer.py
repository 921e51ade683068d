"""Model, loggers, callbacks and Lightning trainer of a run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning import Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback, LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger

from object_discovery.callbacks import (
    DiscoveryGridLogger,
    GracefulStop,
    LastCheckpoint,
    ProgressBar,
    RunInfo,
    StopOnDivergence,
    Throughput,
    TrainingLog,
    ValidationLog,
)
from object_discovery.errors import UserError
from object_discovery.models import MODELS, ObjectDiscoveryModel
from object_discovery.training.run import Run


def choose_precision(precision: str, accelerator: str) -> str:
    """Resolve the precision `auto`: `bf16-mixed` where the hardware multiplies bfloat16, else `32-true`.

    Args:
        precision: Lightning's precision, which is returned as it is, or `auto`.
        accelerator: Lightning's accelerator, or `auto`.
    """
    if precision != "auto":
        return precision
    if accelerator != "cpu" and torch.cuda.is_available():
        supported = torch.cuda.is_bf16_supported(including_emulation=False)
    elif accelerator in ("auto", "cpu") and not torch.backends.mps.is_available():
        supported = cpu_has_bf16()
    else:
        supported = False
    return "bf16-mixed" if supported else "32-true"


def cpu_has_bf16() -> bool:
    """Return whether the CPU has bfloat16 instructions; without them bfloat16 is emulated, and slower."""
    return bool(torch.cpu._is_avx512_bf16_supported())


def build_model(run: Run) -> ObjectDiscoveryModel[Any]:
    """Construct the model, and compile its networks if `compile` is set.

    Args:
        run: The settings.

    Raises:
        UserError: If hyperparameters do not fit together.
    """
    try:
        model = MODELS[run.model_type](run.model)
    except ValueError as error:
        raise UserError(str(error)) from error
    if run.trainer.compile:
        for network in model.networks():
            network.compile()
    return model


class EventFileLogger(TensorBoardLogger):
    """TensorBoard logger that writes one event file.

    Lightning closes the writer at the end of `fit`; the validation that follows would open a second file.
    """

    def finalize(self, status: str) -> None:
        """Flush the event file; `close` closes it."""
        self.experiment.flush()

    def close(self) -> None:
        """Close the event file at the end of the run."""
        self.experiment.close()


def build_loggers(run: Run, out: Path) -> list[Logger]:
    """Construct the CSV logger, and the one of `--logger`.

    Args:
        run: The settings.
        out: Folder of the run.

    Raises:
        UserError: If Weights & Biases cannot be reached.
    """
    loggers: list[Logger] = [CSVLogger(out, name="", version="")]
    if run.trainer.logger == "tensorboard":
        loggers.append(EventFileLogger(out, name="", version="", default_hp_metric=False))
    elif run.trainer.logger == "wandb":
        import wandb  # slow

        offline = run.trainer.wandb_offline
        logger = WandbLogger(project="object_discovery", name=out.name, save_dir=out, offline=offline)
        try:
            _ = logger.experiment  # logs in now, before anything is written
        except wandb.Error as error:
            raise UserError(f"{error} (or add --wandb_offline true)") from error
        loggers.append(logger)
    return loggers


def close_loggers(trainer: Trainer) -> None:
    """Close the loggers of a trainer, so that another run in this process starts its own.

    Args:
        trainer: The trainer.
    """
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            logger.experiment.finish()
        elif isinstance(logger, EventFileLogger):
            logger.close()


def build_callbacks(run: Run, out: Path, fit: str, has_masks: bool = True) -> list[Callback]:
    """Construct the callbacks: logs, image grids, checkpoints (the best by the model's `monitor`), stopping.

    Args:
        run: The settings.
        out: Folder of the run.
        fit: How non-square images are made square: `crop` or `squash`.
        has_masks: Whether the scenes have label maps.
    """
    folder = out / "checkpoints"
    monitor, mode = MODELS[run.model_type].monitor(has_masks)
    terminal = sys.stdout.isatty()
    throughput = Throughput()
    callbacks: list[Callback] = [
        throughput,
        LearningRateMonitor("step"),
        RunInfo(run.data.dataset, fit),
        ModelCheckpoint(folder, filename="best", monitor=monitor, mode=mode, enable_version_counter=False),
        LastCheckpoint(folder),
        GracefulStop(),
        StopOnDivergence(folder / "last.ckpt"),
        ValidationLog(table=not terminal),
        ProgressBar() if terminal else TrainingLog(throughput),
    ]
    if run.trainer.num_pictures:
        callbacks.append(DiscoveryGridLogger(out / "images", run.trainer.num_pictures))
    return callbacks


def build_trainer(run: Run, out: Path, fit: str, has_masks: bool = True) -> Trainer:
    """Construct Lightning's trainer.

    Args:
        run: The settings.
        out: Folder of the run.
        fit: How non-square images are made square: `crop` or `squash`.
        has_masks: Whether the scenes have label maps, by which the best checkpoint is chosen.

    Raises:
        UserError: If Lightning does not know the precision, strategy or devices, or there are no such devices.
    """
    params = run.trainer
    try:
        devices: Any = params.devices if params.devices == "auto" else yaml.safe_load(params.devices)
        return Trainer(
            max_steps=params.max_steps,
            max_time=params.max_time,
            precision=choose_precision(params.precision, params.accelerator),  # type: ignore[arg-type]
            accelerator=params.accelerator,
            devices=devices,
            num_nodes=params.num_nodes,
            strategy=params.strategy,
            val_check_interval=params.val_interval,
            check_val_every_n_epoch=None,
            num_sanity_val_steps=0,
            log_every_n_steps=params.log_interval,
            logger=build_loggers(run, out),
            callbacks=build_callbacks(run, out, fit, has_masks),
            enable_progress_bar=sys.stdout.isatty(),
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
    except (ValueError, TypeError, yaml.YAMLError, MisconfigurationException) as error:
        raise UserError(str(error)) from error
