"""What accompanies a training run: throughput, pictures, progress, a table at the end, and a graceful stop."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, RichProgressBar
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console
from rich.table import Table

from object_discovery.errors import UserError
from object_discovery.models import ObjectDiscoveryModel
from object_discovery.visualization.grid import discovery_grid, save_png

_MAIN = ("fg_ari", "ari", "mbo_i", "miou", "mse", "cross_entropy", "ap_inf", "ap_1", "ap_0.5", "ap_0.25", "ap_0.125")
_COLLAPSE = ("active_slots", "duplicated_slots", "mask_entropy", "slot_covariance", "slot_cosine")
SUMMARY = (*_MAIN, "count_accuracy", "elbo", *_COLLAPSE, "n_skipped")
"""Scores in the order in which they are shown."""


class Throughput(Callback):
    """Log `train/images_per_second` over all processes, validation left out."""

    def __init__(self) -> None:
        self._images, self._since, self._paused = 0, time.perf_counter(), 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._images, self._since = 0, time.perf_counter()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock."""
        self._paused = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let the clock go on."""
        self._since += time.perf_counter() - self._paused

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count images, and log every `log_every_n_steps`."""
        self._images += len(batch["image"])
        if trainer.global_step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            elapsed = time.perf_counter() - self._since
            rate = self._images * trainer.world_size / max(elapsed, 1e-9)
            pl_module.log("train/images_per_second", rate, prog_bar=True, batch_size=1)
            self._images, self._since = 0, time.perf_counter()


class Pictures(Callback):
    """Draw the first validation images at each validation: input, reconstruction, the model's own, masks, each slot.

    The pictures are drawn inside the validation, where the model is in evaluation mode anyway, so its mode is left
    alone.

    Args:
        folder: Where `step_<number>.png` goes; made when needed.
        count: Images in a picture.
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
        """Draw the first batch."""
        if batch_idx or trainer.sanity_checking:
            return
        images, masks = batch["image"][: self.count], batch.get("mask")
        with torch.no_grad(), trainer.precision_plugin.forward_context():
            if "features" in batch and isinstance(pl_module, ObjectDiscoveryModel):  # nothing is encoded
                found = pl_module.score_batch({key: value[: self.count] for key, value in batch.items()})[0]
            else:
                found = pl_module(images)
            extra = pl_module.pictures(images, found) if isinstance(pl_module, ObjectDiscoveryModel) else None
        picture = discovery_grid(images, found, masks=None if masks is None else masks[: self.count], extra=extra)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.last = self.folder / f"step_{trainer.global_step:07d}.png"
        save_png(picture, self.last)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image("val/pictures", picture, trainer.global_step)
            elif isinstance(logger, WandbLogger):
                logger.log_image("val/pictures", [str(self.last)], step=trainer.global_step)


class ValidationLog(Callback):
    """Print a line at each validation."""

    @rank_zero_only
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the step, the loss, the scores and the throughput."""
        found = {name: float(value) for name, value in trainer.callback_metrics.items()}
        names = ["train/loss", *(f"val/{name}" for name in _MAIN), "train/images_per_second"]
        words = [f"{name.split('/')[-1]} {found[name]:.4g}" for name in names if name in found]
        Console().print(f"step {trainer.global_step:>7}  " + "  ".join(words), highlight=False, soft_wrap=True)


def metrics_table(metrics: dict[str, Any], split: str) -> Table:
    """Lay out the scores of a split, `val` or `test`, as a table.

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
    """Lightning's rich bar with the loss, the throughput and FG-ARI, and nothing else."""

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:  # type: ignore[override]
        """Choose what stands behind the bar."""
        found = trainer.callback_metrics
        shown = {"train/loss": "loss", "train/images_per_second": "images/s", "val/fg_ari": "fg_ari"}
        return {label: f"{float(found[name]):.3g}" for name, label in shown.items() if name in found}


class LastCheckpoint(ModelCheckpoint):
    """Keep `last.ckpt`: of the latest validation, and of the step at which the run stops, whatever stops it.

    It is written while the epoch runs: Lightning would count the epoch as done in one written afterwards.

    Args:
        folder: Where it goes; made when needed.

    Attributes:
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
    """On Ctrl-C or SIGTERM finish the step and stop; `LastCheckpoint` saves the step.

    With several processes all of them stop at the same step, asked every `interval` steps.

    Attributes:
        received: The signal that arrived, or None.
    """

    signals = (signal.SIGINT, signal.SIGTERM)

    def __init__(self, interval: int = 10) -> None:
        self.interval = interval
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take over the signals from Lightning, which stops in the middle of a step."""
        for number in self.signals:
            self._before[number] = signal.signal(number, self._note)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give the signals back."""
        while self._before:
            signal.signal(*self._before.popitem())

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop if a signal has arrived, here or in another process."""
        stop = self.received is not None
        if trainer.world_size > 1:
            asked = trainer.global_step % self.interval == 0
            stop = asked and trainer.strategy.reduce_boolean_decision(stop, all=False)
        if stop:
            self.received = self.received or signal.SIGTERM
            trainer.should_stop = True
            trainer.limit_val_batches = 0  # Lightning validates where it stops; whoever stops it does not wait

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:  # the second time at once
            raise KeyboardInterrupt
        self.received = number


class StopOnDivergence(Callback):
    """Stop a run whose loss or weights are no longer finite, and let nothing of it be saved.

    Losses are gathered on the device and looked at every `interval` steps and before anything is saved, so that no
    other step waits for the device.

    Args:
        last: The checkpoint that is good so far, once it is there.
        interval: Steps between two looks.
    """

    def __init__(self, last: Path, interval: int = 50) -> None:
        self.last, self.interval = last, interval
        self._diverged: torch.Tensor | None = None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Note whether the loss is finite, and look at it at times."""
        loss = outputs["loss"] if isinstance(outputs, dict) else outputs
        if loss is not None:
            diverged = ~loss.detach().isfinite().all()
            self._diverged = diverged if self._diverged is None else self._diverged | diverged
        ends = trainer.should_stop or trainer.global_step == trainer.max_steps
        if ends or trainer.global_step % self.interval == 0:
            self._look(trainer, pl_module, ends)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look before the validation, after which checkpoints are saved."""
        if trainer.state.fn == "fit":
            self._look(trainer, pl_module, True)

    def _look(self, trainer: Trainer, pl_module: LightningModule, weights: bool) -> None:
        found = [] if self._diverged is None else [self._diverged]
        if weights:
            found += [~parameter.detach().isfinite().all() for parameter in pl_module.parameters()]
        diverged = bool(torch.stack(found).any()) if found else False
        if trainer.world_size > 1:
            diverged = trainer.strategy.reduce_boolean_decision(diverged, all=False)
        if diverged:
            good = f"the last good checkpoint is {self.last}" if self.last.exists() else "there is no checkpoint yet"
            raise UserError(
                f"The run has diverged by step {trainer.global_step}: its loss is not a finite number. "
                f"Try a lower --lr, or --precision 32-true; {good}"
            )
