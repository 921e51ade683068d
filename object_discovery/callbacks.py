"""Callbacks: throughput, logs and image grids of a training run, its checkpoints, and when it stops."""

from __future__ import annotations

import signal
import time
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, RichProgressBar, Timer
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console
from rich.table import Table

from object_discovery.errors import UserError
from object_discovery.models import ObjectDiscoveryModel
from object_discovery.models.scores import SEGMENTATIONS
from object_discovery.visualization.grid import discovery_grid, save_png

_MAIN_SCORES = (
    *("fg_ari", "ari", "mbo_i", "miou", "mse", "cross_entropy"),
    *("ap_inf", "ap_1", "ap_0.5", "ap_0.25", "ap_0.125"),
)
_COLLAPSE_SCORES = ("active_slots", "duplicated_slots", "mask_entropy", "slot_covariance", "slot_cosine")
_MASK_SCORES = tuple(
    f"{prefix}{name}" for prefix in filter(None, SEGMENTATIONS.values()) for name in ("fg_ari", "ari", "mbo_i", "miou")
)
SUMMARY = (*_MAIN_SCORES, *_MASK_SCORES, "count_accuracy", "elbo", *_COLLAPSE_SCORES, "n_skipped")
"""Names of the scores, in the order in which tables show them."""


class Throughput(Callback):
    """Log `train/images_per_second` over all processes, without the time that validation takes.

    Attributes:
        seconds_per_step: Duration of a training step, averaged since the last log; None before the first.
    """

    def __init__(self) -> None:
        self.seconds_per_step: float | None = None
        self._validation_start = 0.0
        self._restart()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._restart()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock."""
        self._validation_start = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Continue the clock."""
        self._start += time.perf_counter() - self._validation_start

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count images, and log every `log_every_n_steps`."""
        self._steps += 1
        self._images += len(batch["image"])
        if trainer.global_step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            elapsed = max(time.perf_counter() - self._start, 1e-9)
            self.seconds_per_step = elapsed / self._steps
            rate = self._images * trainer.world_size / elapsed
            pl_module.log("train/images_per_second", rate, prog_bar=True, batch_size=1)
            self._restart()

    def _restart(self) -> None:
        self._steps, self._images, self._start = 0, 0, time.perf_counter()


class TrainingLog(Callback):
    """Print a line every `log_every_n_steps`: the step, the loss, images per second and the time left.

    For standard output that is no terminal, where no progress bar can be shown.

    Args:
        throughput: The callback that measures the throughput; it must come earlier in the list of callbacks.
    """

    def __init__(self, throughput: Throughput) -> None:
        self.throughput = throughput

    @rank_zero_only
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Print the line."""
        if trainer.global_step % trainer.log_every_n_steps:  # type: ignore[attr-defined]
            return
        metrics = trainer.callback_metrics
        labels = {"train/loss": "loss", "train/images_per_second": "images/s"}
        words = [f"{label} {float(metrics[name]):.4g}" for name, label in labels.items() if name in metrics]
        words.append(f"{timedelta(seconds=round(self._seconds_left(trainer)))} left")
        print(f"step {trainer.global_step:>7}/{trainer.max_steps}  " + "  ".join(words), flush=True)

    def _seconds_left(self, trainer: Trainer) -> float:
        """Estimate the time to the last step, without validations, at most what `max_time` leaves."""
        timers = [callback for callback in trainer.callbacks if isinstance(callback, Timer)]  # type: ignore[attr-defined]
        limits = [seconds for timer in timers if (seconds := timer.time_remaining()) is not None]
        steps = trainer.max_steps - trainer.global_step
        return max(0.0, min([steps * (self.throughput.seconds_per_step or 0.0), *limits]))


class DiscoveryGridLogger(Callback):
    """Write a grid of the first validation images at each validation: input, reconstruction, masks, each slot.

    Validation has put the model into evaluation mode already; the mode is left unchanged.

    Args:
        folder: Folder of `step_<number>.png`; created when needed.
        count: Images in a grid.

    Attributes:
        last: The latest grid, or None.
    """

    def __init__(self, folder: Path, count: int = 8) -> None:
        self.folder, self.count = folder, count
        self.last: Path | None = None

    @rank_zero_only
    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Write the grid of the first batch."""
        if batch_idx or trainer.sanity_checking:
            return
        images, masks = batch["image"][: self.count], batch.get("mask")
        with torch.no_grad(), trainer.precision_plugin.forward_context():
            if isinstance(pl_module, ObjectDiscoveryModel):
                discovery = pl_module.discover_batch({key: value[: self.count] for key, value in batch.items()})
                extra = pl_module.pictures(images, discovery)
            else:
                discovery, extra = pl_module(images), None
        grid = discovery_grid(images, discovery, masks=None if masks is None else masks[: self.count], extra=extra)
        self.last = self.folder / f"step_{trainer.global_step:07d}.png"
        save_png(grid, self.last)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image("val/pictures", grid, trainer.global_step)
            elif isinstance(logger, WandbLogger):
                logger.log_image("val/pictures", [str(self.last)], step=trainer.global_step)


class ValidationLog(Callback):
    """Print the scores at each validation.

    Args:
        table: Print a table of all scores, in place of a line with the main ones.
    """

    def __init__(self, table: bool = False) -> None:
        self.table = table

    @rank_zero_only
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the step and the scores."""
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        if self.table:
            print(f"validation at step {trainer.global_step}")
            Console().print(metrics_table(metrics, "val"))
            return
        names = ["train/loss", *(f"val/{name}" for name in _MAIN_SCORES), "train/images_per_second"]
        words = [f"{name.split('/')[-1]} {metrics[name]:.4g}" for name in names if name in metrics]
        Console().print(f"step {trainer.global_step:>7}  " + "  ".join(words), highlight=False, soft_wrap=True)


def metrics_table(metrics: dict[str, Any], split: str) -> Table:
    """Lay out the scores of a split as a table.

    Args:
        metrics: Values by log key; those that are no scores of the split are ignored.
        split: `val` or `test`.

    Example:
        >>> metrics_table({"val/fg_ari": 0.5}, "val").row_count
        1
    """
    table = Table("score", split, title=None)
    for name in SUMMARY:
        if f"{split}/{name}" in metrics:
            table.add_row(name, f"{float(metrics[f'{split}/{name}']):.4f}")
    return table


class ProgressBar(RichProgressBar):
    """Lightning's rich progress bar with the loss, the throughput and FG-ARI."""

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:  # type: ignore[override]
        """Choose the values that the bar shows."""
        metrics = trainer.callback_metrics
        labels = {"train/loss": "loss", "train/images_per_second": "images/s", "val/fg_ari": "fg_ari"}
        return {label: f"{float(metrics[name]):.3g}" for name, label in labels.items() if name in metrics}


class RunInfo(Callback):
    """Store in each checkpoint what it was trained on, as `checkpoint["run"]`, in plain values.

    `dataset` is the name of the dataset, `fit` how images were made square, `validation` the scores of the latest
    validation without the prefix `val/`. `predict` uses them.

    Args:
        dataset: Name of the dataset.
        fit: `crop` or `squash`.
    """

    def __init__(self, dataset: str, fit: str) -> None:
        self.dataset, self.fit = dataset, fit
        self.validation: dict[str, float] = {}

    def content(self) -> dict[str, Any]:
        """Return the entry of the checkpoint."""
        return {"dataset": self.dataset, "fit": self.fit, "validation": dict(self.validation)}

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the scores; Lightning calls the callbacks that save checkpoints after the others."""
        metrics = trainer.callback_metrics
        self.validation = {
            name.removeprefix("val/"): float(value) for name, value in metrics.items() if name.startswith("val/")
        }

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add the entry."""
        checkpoint["run"] = self.content()

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Take the scores of the run that is continued."""
        self.validation = dict(checkpoint.get("run", {}).get("validation", {}))


class LastCheckpoint(ModelCheckpoint):
    """Save `last.ckpt` at each validation and at the step where the run ends or is stopped.

    That step is saved while the epoch runs: in a checkpoint written after it Lightning would count the epoch as done.

    Args:
        folder: Folder of the checkpoint; created when needed.

    Attributes:
        path: The checkpoint.
        validated: The step of the latest validation, or None.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, filename="last", enable_version_counter=False)
        self.path = folder / "last.ckpt"
        self.validated: int | None = None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save after the last step."""
        if trainer.should_stop or trainer.global_step == trainer.max_steps:
            trainer.save_checkpoint(self.path)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save after a validation."""
        super().on_validation_end(trainer, pl_module)
        self.validated = trainer.global_step


class GracefulStop(Callback):
    """On Ctrl-C or SIGTERM finish the step and stop; `LastCheckpoint` saves it. A second signal stops at once.

    Several processes stop at the same step: every `interval` steps they check whether one of them has a signal.

    Args:
        interval: Steps between two checks of several processes.

    Attributes:
        received: The signal that arrived, or None.
    """

    signals = (signal.SIGINT, signal.SIGTERM)

    def __init__(self, interval: int = 10) -> None:
        self.interval = interval
        self.received: int | None = None
        self._previous_handlers: dict[int, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Replace the signal handlers of Lightning, which stops in the middle of a step."""
        for number in self.signals:
            self._previous_handlers[number] = signal.signal(number, self._receive)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the signal handlers."""
        while self._previous_handlers:
            signal.signal(*self._previous_handlers.popitem())

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop if a signal has arrived, in this or another process."""
        stop = self.received is not None
        if trainer.world_size > 1:
            check = trainer.global_step % self.interval == 0
            stop = check and trainer.strategy.reduce_boolean_decision(stop, all=False)
        if stop:
            self.received = self.received or signal.SIGTERM
            trainer.should_stop = True
            trainer.limit_val_batches = 0  # Lightning validates where it stops, but a signal does not wait

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            raise KeyboardInterrupt
        self.received = number


class StopOnDivergence(Callback):
    """Stop a run whose loss or weights are no longer finite, before such a checkpoint is saved.

    Whether losses are finite is accumulated on the device, and read every `interval` steps and before a checkpoint is
    saved, so that no other step waits for the device.

    Args:
        last: The last checkpoint, for the message.
        interval: Steps between two checks.
    """

    def __init__(self, last: Path, interval: int = 50) -> None:
        self.last, self.interval = last, interval
        self._diverged: torch.Tensor | None = None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Accumulate whether the losses are finite; check every `interval` steps and after the last step."""
        loss = outputs["loss"] if isinstance(outputs, dict) else outputs
        if loss is not None:
            diverged = ~loss.detach().isfinite().all()
            self._diverged = diverged if self._diverged is None else self._diverged | diverged
        is_last = trainer.should_stop or trainer.global_step == trainer.max_steps
        if is_last or trainer.global_step % self.interval == 0:
            self._check(trainer, pl_module, weights=is_last)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check before the validation, after which checkpoints are saved."""
        if trainer.state.fn == "fit":
            self._check(trainer, pl_module, weights=True)

    def _check(self, trainer: Trainer, pl_module: LightningModule, *, weights: bool) -> None:
        """Raise a UserError if a loss or, with `weights`, a parameter was not finite in any process."""
        flags = [] if self._diverged is None else [self._diverged]
        if weights:
            flags += [~parameter.detach().isfinite().all() for parameter in pl_module.parameters()]
        diverged = bool(torch.stack(flags).any()) if flags else False
        if trainer.world_size > 1:
            diverged = trainer.strategy.reduce_boolean_decision(diverged, all=False)
        if diverged:
            good = f"the last good checkpoint is {self.last}" if self.last.exists() else "there is no checkpoint yet"
            raise UserError(
                f"The run has diverged by step {trainer.global_step}: its loss is not a finite number. "
                f"Try a lower --lr, or --precision 32-true; {good}"
            )
