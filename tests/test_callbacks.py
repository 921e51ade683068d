import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Timer
from PIL import Image

from object_discovery.callbacks import (
    SUMMARY,
    DiscoveryGridLogger,
    GracefulStop,
    LastCheckpoint,
    ProgressBar,
    RunInfo,
    Throughput,
    TrainingLog,
    ValidationLog,
    metrics_table,
)
from object_discovery.visualization.grid import discovery_grid
from tests.models.tiny import SIZE, make_data, make_images, make_model, make_trainer

pytestmark = pytest.mark.filterwarnings("ignore:You have overridden `on_after_batch_transfer`")


def fake_trainer(**settings: Any) -> Any:
    """Return the attributes of a trainer in the middle of a run."""
    return SimpleNamespace(
        **{"global_step": 0, "world_size": 1, "should_stop": False, "limit_val_batches": 1.0, **settings}
    )


# Throughput


def test_throughput_counts_all_processes_and_excludes_validation(monkeypatch: pytest.MonkeyPatch) -> None:
    now, logged = [100.0], []
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    trainer = fake_trainer(world_size=2, log_every_n_steps=2)
    module: Any = SimpleNamespace(log=lambda name, value, **_: logged.append((trainer.global_step, name, value)))
    throughput = Throughput()
    now[0] = 130.0  # before training
    throughput.on_train_start(trainer, module)
    for step in range(1, 5):
        now[0] += 2
        trainer.global_step = step
        throughput.on_train_batch_end(trainer, module, None, {"image": torch.zeros(6, 1)}, step)
        if step == 3:
            throughput.on_validation_start(trainer, module)
            now[0] += 50
            throughput.on_validation_end(trainer, module)
    assert logged == [(step, "train/images_per_second", pytest.approx(6.0)) for step in (2, 4)]
    assert throughput.seconds_per_step == pytest.approx(2.0)


# Image grids


class TrainingModes(Callback):
    """Record whether the model is in training mode at each step."""

    def __init__(self) -> None:
        self.modes: list[bool] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.modes.append(all(module.training for module in pl_module.modules()))


def test_grids_leave_the_model_in_training_mode(tmp_path: Path) -> None:
    recorder, grids = TrainingModes(), DiscoveryGridLogger(tmp_path / "images", count=3)
    model = make_model("sa").train()
    trainer = make_trainer(4, callbacks=[recorder, grids], val_check_interval=1, check_val_every_n_epoch=None)
    trainer.fit(model, make_data())
    assert recorder.modes == [True] * 4
    assert sorted(path.name for path in (tmp_path / "images").iterdir()) == [f"step_000000{n}.png" for n in range(1, 5)]
    assert grids.last == tmp_path / "images" / "step_0000004.png"


def write_grid(
    folder: Path, batch: dict[str, torch.Tensor], batch_idx: int = 0, sanity_checking: bool = False
) -> DiscoveryGridLogger:
    grids = DiscoveryGridLogger(folder, count=2)
    plugin = make_trainer(1).precision_plugin
    trainer = fake_trainer(sanity_checking=sanity_checking, precision_plugin=plugin, loggers=[], global_step=7)
    grids.on_validation_batch_end(trainer, make_model("sa").eval(), None, batch, batch_idx)
    return grids


@pytest.mark.parametrize("masks", [True, False])
def test_grids_show_the_first_images_of_the_first_batch(masks: bool, tmp_path: Path) -> None:
    batch = {"image": make_images(4)}
    if masks:
        batch["mask"] = torch.arange(4 * SIZE * SIZE).view(4, SIZE, SIZE).remainder(3).byte()
    grids = write_grid(tmp_path, batch)
    with torch.no_grad():
        discovery = make_model("sa").eval()(make_images(4)[:2])
    expected = discovery_grid(make_images(4)[:2], discovery, masks=batch["mask"][:2] if masks else None).numpy()
    assert grids.last is not None
    with Image.open(grids.last) as image:
        pixels = np.asarray(image).transpose(2, 0, 1).astype(int)
    assert pixels.shape == expected.shape
    assert np.abs(pixels - expected).max() <= 1


def test_later_batches_and_the_sanity_check_have_no_grid(tmp_path: Path) -> None:
    assert write_grid(tmp_path / "images", {"image": make_images()}, batch_idx=1).last is None
    assert write_grid(tmp_path / "images", {"image": make_images()}, sanity_checking=True).last is None
    assert not (tmp_path / "images").exists()


# Logs


def scores(**values: float) -> dict[str, torch.Tensor]:
    return {name.replace("__", "/"): torch.tensor(value) for name, value in values.items()}


def test_validation_scores_are_printed_as_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    metrics = scores(val__mse=0.0123456, val__fg_ari=0.5, train__loss=1.5, train__other=3.0, val__n_skipped=0.0)
    ValidationLog().on_validation_end(fake_trainer(global_step=40, callback_metrics=metrics), make_model("sa"))
    assert capsys.readouterr().out == "step      40  loss 1.5  fg_ari 0.5  mse 0.01235\n"


def test_validation_scores_are_printed_as_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    metrics = scores(val__mse=0.0123456, val__n_skipped=0.0)
    trainer = fake_trainer(global_step=40, callback_metrics=metrics)
    ValidationLog(table=True).on_validation_end(trainer, make_model("sa"))
    first, *table = capsys.readouterr().out.splitlines()
    assert first == "validation at step 40"
    rows = [line.replace("│", " ").split() for line in table if "0." in line]
    assert rows == [["mse", "0.0123"], ["n_skipped", "0.0000"]]


@pytest.mark.parametrize(
    ("step", "seconds_per_step", "max_time", "line"),
    [
        (7, 1.0, None, ""),
        (10, None, None, "step      10/3620  loss 1.5  images/s 64  0:00:00 left\n"),
        (20, 1.0, None, "step      20/3620  loss 1.5  images/s 64  1:00:00 left\n"),
        (20, 1.0, {"seconds": 90}, "step      20/3620  loss 1.5  images/s 64  0:01:30 left\n"),
    ],
)
def test_training_log_prints_a_line_every_log_interval(
    step: int,
    seconds_per_step: float | None,
    max_time: dict[str, int] | None,
    line: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    throughput = Throughput()
    throughput.seconds_per_step = seconds_per_step
    metrics = scores(train__loss=1.5, train__images_per_second=64.0, val__mse=1.0)
    timers = [] if max_time is None else [Timer(max_time)]
    trainer = fake_trainer(
        global_step=step, max_steps=3620, log_every_n_steps=10, callback_metrics=metrics, callbacks=timers
    )
    TrainingLog(throughput).on_train_batch_end(trainer, make_model("sa"), None, None, 0)
    assert capsys.readouterr().out == line


def test_tables_have_the_scores_of_one_split_in_order() -> None:
    table = metrics_table({"val/mse": 0.25, "val/fg_ari": torch.tensor(0.5), "test/ari": 1.0, "val/new": 3}, "val")
    assert [list(column.cells) for column in table.columns] == [["fg_ari", "mse"], ["0.5000", "0.2500"]]
    assert [column.header for column in table.columns] == ["score", "val"]
    assert metrics_table({f"test/{name}": 0 for name in SUMMARY}, "test").row_count == len(SUMMARY)


def test_the_progress_bar_shows_loss_throughput_and_fg_ari() -> None:
    metrics = scores(train__loss=0.12345, val__fg_ari=0.5, val__mse=2.0, train__images_per_second=1234.5)
    values = ProgressBar().get_metrics(fake_trainer(callback_metrics=metrics), make_model("sa"))
    assert values == {"loss": "0.123", "images/s": "1.23e+03", "fg_ari": "0.5"}
    assert ProgressBar().get_metrics(fake_trainer(callback_metrics={}), make_model("sa")) == {}


# Checkpoints and the end of a run


def test_run_info_is_stored_in_checkpoints_as_plain_values() -> None:
    info, checkpoint = RunInfo("tetrominoes", "crop"), {}  # type: ignore[var-annotated]
    trainer, model = fake_trainer(callback_metrics=scores(val__mse=0.5, train__loss=1.0)), make_model("sa")
    info.on_save_checkpoint(trainer, model, checkpoint)
    assert checkpoint == {"run": {"dataset": "tetrominoes", "fit": "crop", "validation": {}}}
    info.on_validation_end(trainer, model)
    info.on_save_checkpoint(trainer, model, checkpoint)
    assert checkpoint["run"]["validation"] == {"mse": 0.5}
    assert type(checkpoint["run"]["validation"]["mse"]) is float


def test_run_info_of_a_continued_run_has_the_scores_of_the_checkpoint() -> None:
    info, trainer, model = RunInfo("tetrominoes", "crop"), fake_trainer(), make_model("sa")
    info.on_load_checkpoint(trainer, model, {})  # of an earlier version
    assert info.content()["validation"] == {}
    info.on_load_checkpoint(trainer, model, {"run": {"dataset": "coco", "fit": "squash", "validation": {"mse": 0.5}}})
    assert info.content() == {"dataset": "tetrominoes", "fit": "crop", "validation": {"mse": 0.5}}


class SendSignal(Callback):
    """Send this process a signal at a step."""

    def __init__(self, number: int, step: int) -> None:
        self.number, self.step = number, step

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self.step:
            os.kill(os.getpid(), self.number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_run_after_the_step_without_a_validation(number: signal.Signals, tmp_path: Path) -> None:
    before = [signal.getsignal(handled) for handled in GracefulStop.signals]
    stop, last = GracefulStop(), LastCheckpoint(tmp_path)
    trainer = make_trainer(
        9, callbacks=[last, SendSignal(number, 4), stop], val_check_interval=3, enable_checkpointing=True
    )
    trainer.fit(make_model("sa"), make_data(train_size=40))
    assert (trainer.global_step, stop.received, last.validated) == (5, number, 3)
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 5
    assert saved["loops"]["fit_loop"]["epoch_progress"]["total"]["completed"] == 0  # an epoch has ten steps
    assert [signal.getsignal(handled) for handled in GracefulStop.signals] == before


def test_a_second_signal_stops_the_run_at_once() -> None:
    stop, trainer, model = GracefulStop(), fake_trainer(), make_model("sa")
    stop.on_train_start(trainer, model)
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.received == signal.SIGTERM
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
    finally:
        stop.on_train_end(trainer, model)


@pytest.mark.parametrize(
    ("step", "here", "elsewhere", "expected"),
    [
        (19, True, False, None),
        (20, True, False, signal.SIGINT),
        (20, False, True, signal.SIGTERM),
        (20, False, False, None),
    ],
)
def test_processes_stop_at_the_same_step(step: int, here: bool, elsewhere: bool, expected: int | None) -> None:
    calls = []

    def reduce(decision: bool, all: bool) -> bool:
        calls.append(all)
        return decision or elsewhere

    trainer = fake_trainer(global_step=step, world_size=2, strategy=SimpleNamespace(reduce_boolean_decision=reduce))
    stop = GracefulStop(interval=10)
    stop.received = signal.SIGINT if here else None
    stop.on_train_batch_end(trainer, make_model("sa"), None, None, 0)
    assert calls == ([False] if step == 20 else [])
    assert trainer.should_stop == (expected is not None)
    assert trainer.limit_val_batches == (0 if trainer.should_stop else 1.0)
    if expected is not None:
        assert stop.received == expected


def test_the_last_checkpoint_is_of_the_last_step(tmp_path: Path) -> None:
    for max_steps, validated in ((3, 3), (4, 3), (2, None)):
        last = LastCheckpoint(tmp_path / str(max_steps))
        trainer = make_trainer(max_steps, callbacks=[last], val_check_interval=3, enable_checkpointing=True)
        trainer.fit(make_model("sa"), make_data(train_size=40))
        assert torch.load(last.path, weights_only=True)["global_step"] == max_steps
        assert last.validated == validated
        assert [path.name for path in (tmp_path / str(max_steps)).iterdir()] == ["last.ckpt"]
