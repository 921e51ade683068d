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
from PIL import Image

from object_discovery.callbacks import (
    SUMMARY,
    DiscoveryGridLogger,
    GracefulStop,
    LastCheckpoint,
    ProgressBar,
    Throughput,
    ValidationLog,
    metrics_table,
)
from object_discovery.visualization.grid import discovery_grid
from tests.models.tiny import SIZE, make_data, make_images, make_model, make_trainer

pytestmark = pytest.mark.filterwarnings("ignore:You have overridden `on_after_batch_transfer`")


def a_trainer(**settings: Any) -> Any:
    """Stand in for a trainer in the middle of a run."""
    return SimpleNamespace(
        **{"global_step": 0, "world_size": 1, "should_stop": False, "limit_val_batches": 1.0, **settings}
    )


# Throughput


def test_throughput_is_of_training_alone_and_of_all_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    now, logged = [100.0], []
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    trainer = a_trainer(world_size=2, log_every_n_steps=2)
    module: Any = SimpleNamespace(log=lambda name, value, **_: logged.append((trainer.global_step, name, value)))
    throughput = Throughput()
    now[0] = 130.0  # the data are opened
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


# DiscoveryGridLogger


class Modes(Callback):
    """Note whether the model trains, at each step."""

    def __init__(self) -> None:
        self.found: list[bool] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.found.append(all(module.training for module in pl_module.modules()))


def test_pictures_leave_the_model_in_training_mode_and_out_of_the_graph(tmp_path: Path) -> None:
    modes, pictures = Modes(), DiscoveryGridLogger(tmp_path / "images", count=3)
    model = make_model("sa").train()
    trainer = make_trainer(4, callbacks=[modes, pictures], val_check_interval=1, check_val_every_n_epoch=None)
    trainer.fit(model, make_data())
    assert modes.found == [True] * 4
    assert sorted(path.name for path in (tmp_path / "images").iterdir()) == [f"step_000000{n}.png" for n in range(1, 5)]
    assert pictures.last == tmp_path / "images" / "step_0000004.png"


def draw(folder: Path, batch: dict[str, torch.Tensor], batch_idx: int = 0, **settings: Any) -> DiscoveryGridLogger:
    pictures = DiscoveryGridLogger(folder, count=2)
    real = make_trainer(1)
    given = {"sanity_checking": False, "precision_plugin": real.precision_plugin, "loggers": [], "global_step": 7}
    model = make_model("sa").eval()
    pictures.on_validation_batch_end(a_trainer(**{**given, **settings}), model, None, batch, batch_idx)
    return pictures


@pytest.mark.parametrize("masks", [True, False])
def test_pictures_show_the_first_images_of_the_first_batch(masks: bool, tmp_path: Path) -> None:
    batch = {"image": make_images(4)}
    if masks:
        batch["mask"] = torch.arange(4 * SIZE * SIZE).view(4, SIZE, SIZE).remainder(3).byte()
    pictures = draw(tmp_path, batch)
    with torch.no_grad():
        found = make_model("sa").eval()(make_images(4)[:2])
    expected = discovery_grid(make_images(4)[:2], found, masks=batch["mask"][:2] if masks else None)
    assert pictures.last is not None
    with Image.open(pictures.last) as image:
        drawn = np.asarray(image).transpose(2, 0, 1).astype(int)
    wanted = expected.float().mul(1 if expected.dtype == torch.uint8 else 255).numpy()
    assert drawn.shape == wanted.shape
    assert np.abs(drawn - wanted).max() <= 1


def test_later_batches_and_the_sanity_check_are_not_drawn(tmp_path: Path) -> None:
    for settings in ({"batch_idx": 1}, {"sanity_checking": True}):
        assert draw(tmp_path / "images", {"image": make_images()}, **settings).last is None
    assert not (tmp_path / "images").exists()


# What is shown


def scores(**values: float) -> dict[str, torch.Tensor]:
    return {name.replace("__", "/"): torch.tensor(value) for name, value in values.items()}


def test_a_validation_is_reported_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    found = scores(val__mse=0.0123456, val__fg_ari=0.5, train__loss=1.5, train__other=3.0, val__n_skipped=0.0)
    ValidationLog().on_validation_end(a_trainer(global_step=40, callback_metrics=found), make_model("sa"))
    assert capsys.readouterr().out == "step      40  loss 1.5  fg_ari 0.5  mse 0.01235\n"


def test_the_table_has_the_known_scores_of_one_split_in_order() -> None:
    table = metrics_table({"val/mse": 0.25, "val/fg_ari": torch.tensor(0.5), "test/ari": 1.0, "val/new": 3}, "val")
    assert [list(column.cells) for column in table.columns] == [["fg_ari", "mse"], ["0.5000", "0.2500"]]
    assert [column.header for column in table.columns] == ["score", "val"]
    assert metrics_table({f"test/{name}": 0 for name in SUMMARY}, "test").row_count == len(SUMMARY)


def test_the_bar_shows_three_numbers() -> None:
    found = scores(train__loss=0.12345, val__fg_ari=0.5, val__mse=2.0, train__images_per_second=1234.5)
    shown = ProgressBar().get_metrics(a_trainer(callback_metrics=found), make_model("sa"))
    assert shown == {"loss": "0.123", "images/s": "1.23e+03", "fg_ari": "0.5"}
    assert ProgressBar().get_metrics(a_trainer(callback_metrics={}), make_model("sa")) == {}


# The end of a run


class Send(Callback):
    """Send this process a signal at a step."""

    def __init__(self, number: int, step: int) -> None:
        self.number, self.step = number, step

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self.step:
            os.kill(os.getpid(), self.number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_after_its_step_without_a_validation(number: signal.Signals, tmp_path: Path) -> None:
    before = [signal.getsignal(each) for each in GracefulStop.signals]
    stop, last = GracefulStop(), LastCheckpoint(tmp_path)
    trainer = make_trainer(9, callbacks=[last, Send(number, 4), stop], val_check_interval=3, enable_checkpointing=True)
    trainer.fit(make_model("sa"), make_data(train_size=40))
    assert (trainer.global_step, stop.received, last.validated) == (5, number, 3)
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 5
    assert saved["loops"]["fit_loop"]["epoch_progress"]["total"]["completed"] == 0  # ten steps make an epoch
    assert [signal.getsignal(each) for each in GracefulStop.signals] == before


def test_the_second_signal_ends_the_run_at_once() -> None:
    stop, trainer, model = GracefulStop(), a_trainer(), make_model("sa")
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
def test_processes_stop_together(step: int, here: bool, elsewhere: bool, expected: int | None) -> None:
    asked = []

    def reduce(decision: bool, all: bool) -> bool:
        asked.append(all)
        return decision or elsewhere

    trainer = a_trainer(global_step=step, world_size=2, strategy=SimpleNamespace(reduce_boolean_decision=reduce))
    stop = GracefulStop(interval=10)
    stop.received = signal.SIGINT if here else None
    stop.on_train_batch_end(trainer, make_model("sa"), None, None, 0)
    assert asked == ([False] if step == 20 else [])
    assert trainer.should_stop == (expected is not None)
    assert trainer.limit_val_batches == (0 if trainer.should_stop else 1.0)
    if expected is not None:
        assert stop.received == expected


def test_the_last_checkpoint_is_of_the_latest_validation_or_of_the_last_step(tmp_path: Path) -> None:
    for max_steps, validated in ((3, 3), (4, 3), (2, None)):
        last = LastCheckpoint(tmp_path / str(max_steps))
        trainer = make_trainer(max_steps, callbacks=[last], val_check_interval=3, enable_checkpointing=True)
        trainer.fit(make_model("sa"), make_data(train_size=40))
        assert torch.load(last.path, weights_only=True)["global_step"] == max_steps
        assert last.validated == validated
        assert [path.name for path in (tmp_path / str(max_steps)).iterdir()] == ["last.ckpt"]
