"""Fit a model: dataset, model, trainer, and the scores at the end."""

from __future__ import annotations

import math
import os
import shutil
import sys
from pathlib import Path
from typing import Any, TypeVar

import torch
from lightning import LightningDataModule, Trainer, seed_everything
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from rich.console import Console

from object_discovery.callbacks import DiscoveryGridLogger, GracefulStop, LastCheckpoint, RunInfo, metrics_table
from object_discovery.data import DATASETS, SceneDataModule
from object_discovery.data.dataset import StoredScenes
from object_discovery.feature_cache import with_features
from object_discovery.files import atomic_write
from object_discovery.models import ObjectDiscoveryModel, read_checkpoint
from object_discovery.training.resume import find_resume, keep_metrics
from object_discovery.training.run import FOLDER_VARIABLE, Run, choose_folder, prepare_folder
from object_discovery.training.trainer import build_model, build_trainer, close_loggers

C = TypeVar("C", bound=Callback)


def train(run: Run) -> dict[str, float]:
    """Train a model, and print its scores and the paths of what was written.

    Args:
        run: The settings, see `object_discovery.train.parse`.

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
    checkpoint = find_resume(run, out, model)
    trainer = build_trainer(run, out, training_fit(scenes), data.has_masks)
    model.check_precision(trainer.precision)
    if trainer.is_global_zero:
        prepare_folder(run, out)
    if checkpoint is not None:
        keep_metrics(trainer, out, read_checkpoint(checkpoint)["global_step"])
    if trainer.is_global_zero:
        weights = sum(parameter.numel() for parameter in model.parameters())
        print(
            f"{data.describe()}\n{run.model_type}: {weights:,} parameters, {trainer.precision}\nrun: {out}", flush=True
        )
        if run.trainer.compile:
            print("compiling the networks: the first step and the first validation may take minutes", flush=True)
    os.environ[FOLDER_VARIABLE] = str(out)
    try:
        trainer.fit(model, datamodule=data, ckpt_path=checkpoint, weights_only=True)
        return _finish(trainer, model, data, out)
    finally:
        os.environ.pop(FOLDER_VARIABLE, None)
        close_loggers(trainer)


def training_fit(data: SceneDataModule) -> str:
    """Return how training images are made square, `crop` or `squash`; `crop` where they are square already.

    Args:
        data: The dataset, set up for training.
    """
    scenes = data.train_set
    if data.params.fit is not None or not isinstance(scenes, StoredScenes):
        return data.params.fit or "crop"
    height, width = scenes.cropped(int(scenes.indices[0]))[0].shape[:2]
    return "crop" if height == width else "squash"


def _finish(
    trainer: Trainer, model: ObjectDiscoveryModel[Any], data: LightningDataModule, out: Path
) -> dict[str, float]:
    """Validate after the last step, unless that was done, and print the results."""
    last = out / "checkpoints" / "last.ckpt"
    stop = _callback(trainer, GracefulStop)
    if stop.received is not None and trainer.global_step < trainer.max_steps:
        if trainer.is_global_zero:
            print(
                f"stopped at step {trainer.global_step}; saved {last}; --resume auto --out {out} continues", flush=True
            )
        raise SystemExit(128 + stop.received)
    not_validated = _callback(trainer, LastCheckpoint).validated != trainer.global_step
    if not_validated:
        trainer.validate(model, datamodule=data, verbose=False)
    scores = {name: float(value) for name, value in trainer.callback_metrics.items()}
    if trainer.is_global_zero:
        if not_validated and last.exists():
            _add_run_info(last, _callback(trainer, RunInfo))
            _keep_if_best(last, trainer, scores)
        if sys.stdout.isatty():  # elsewhere `ValidationLog` has printed it
            Console().print(metrics_table(scores, "val"))
        _warn_of_clusters(scores)
        grids = [callback.last for callback in _callbacks(trainer, DiscoveryGridLogger) if callback.last is not None]
        print("\n".join([f"checkpoint: {last}", *(f"picture: {path}" for path in grids)]), flush=True)
    return scores


def _warn_of_clusters(scores: dict[str, float]) -> None:
    """Warn where the clusters by which the slots are initialised segment better than the trained model."""
    names = [name for name in ("fg_ari", "ari", "mbo_i") if {f"val/{name}", f"val/cluster_{name}"} <= scores.keys()]
    worse = [name for name in names if scores[f"val/{name}"] < scores[f"val/cluster_{name}"]]
    if worse:
        values = ", ".join(
            f"{name} {scores[f'val/{name}']:.3f} against {scores[f'val/cluster_{name}']:.3f}" for name in worse
        )
        print(
            f"warning: the untrained clusters of cluster_init segment better than the model: {values}", file=sys.stderr
        )


def _add_run_info(last: Path, info: RunInfo) -> None:
    """Store the scores of a validation after the run in the last checkpoint, which was saved before it."""
    checkpoint = {**read_checkpoint(last), "run": info.content()}
    with atomic_write(last) as temporary:
        torch.save(checkpoint, temporary)


def _keep_if_best(last: Path, trainer: Trainer, scores: dict[str, float]) -> None:
    """Copy the last checkpoint to `best.ckpt` if the scores of a validation after the run are the best."""
    best = next(callback for callback in _callbacks(trainer, ModelCheckpoint) if callback.monitor)
    score = scores.get(best.monitor or "", math.nan)
    sign = 1 if best.mode == "max" else -1
    best_before = -math.inf if best.best_model_score is None else sign * float(best.best_model_score)
    if sign * score > best_before:
        with atomic_write(last.with_name("best.ckpt")) as temporary:
            shutil.copyfile(last, temporary)


def _callbacks(trainer: Trainer, cls: type[C]) -> list[C]:
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return [callback for callback in callbacks if isinstance(callback, cls)]


def _callback(trainer: Trainer, cls: type[C]) -> C:
    return _callbacks(trainer, cls)[0]
