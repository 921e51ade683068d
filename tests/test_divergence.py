"""Runs with a non-finite loss or non-finite weights."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from object_discovery.callbacks import StopOnDivergence
from object_discovery.discovery import Batch
from object_discovery.errors import UserError
from object_discovery.models import MODELS
from object_discovery.models.checkpoints import read_checkpoint
from object_discovery.train import main
from tests.models.tiny import TINY

pytestmark = [
    pytest.mark.filterwarnings("ignore:(Experiment logs|Checkpoint) directory"),
    pytest.mark.filterwarnings("ignore:You have overridden `on_after_batch_transfer`"),
]


def fake_trainer(**settings: Any) -> Any:
    """Return the attributes of a trainer in the middle of a run."""
    values = {"global_step": 1, "should_stop": False, "max_steps": 100, "world_size": 1}
    return SimpleNamespace(**{**values, "state": SimpleNamespace(fn="fit"), **settings})


def end_step(callback: StopOnDivergence, trainer: Any, loss: float, module: nn.Module | None = None) -> None:
    callback.on_train_batch_end(trainer, module or nn.Linear(1, 1), {"loss": torch.tensor(loss)}, None, 0)  # type: ignore[arg-type]


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_losses_are_checked_at_intervals(loss: float, tmp_path: Path) -> None:
    callback = StopOnDivergence(tmp_path / "last.ckpt", interval=3)
    end_step(callback, fake_trainer(global_step=1), loss)
    end_step(callback, fake_trainer(global_step=2), 1.0)  # the loss of step 1 counts
    with pytest.raises(UserError, match=r"diverged by step 3: .* a lower --lr.*there is no checkpoint yet$"):
        end_step(callback, fake_trainer(global_step=3), 1.0)


@pytest.mark.parametrize("settings", [{"should_stop": True}, {"max_steps": 1}])
def test_losses_and_weights_are_checked_before_the_last_step_is_saved(settings: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="diverged"):
        end_step(StopOnDivergence(tmp_path / "last.ckpt"), fake_trainer(**settings), float("nan"))
    diverged_module = nn.Linear(1, 1)
    nn.init.constant_(diverged_module.bias, float("nan"))  # after a non-finite gradient of a finite loss
    with pytest.raises(UserError, match="diverged"):
        end_step(StopOnDivergence(tmp_path / "last.ckpt"), fake_trainer(**settings), 1.0, diverged_module)


def test_validation_outside_training_is_not_checked(tmp_path: Path) -> None:
    callback, diverged_module = StopOnDivergence(tmp_path / "last.ckpt"), nn.Linear(1, 1)
    nn.init.constant_(diverged_module.weight, float("inf"))
    callback.on_validation_start(fake_trainer(state=SimpleNamespace(fn="validate")), diverged_module)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="diverged"):
        callback.on_validation_start(fake_trainer(), diverged_module)  # type: ignore[arg-type]


def test_divergence_in_one_process_stops_all(tmp_path: Path) -> None:
    strategy = SimpleNamespace(reduce_boolean_decision=lambda decision, all: True)
    with pytest.raises(UserError, match="diverged"):
        end_step(
            StopOnDivergence(tmp_path / "last.ckpt"), fake_trainer(world_size=2, strategy=strategy, max_steps=1), 1.0
        )


def test_last_finite_checkpoint_is_not_overwritten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cls = MODELS["gnm"]
    losses = cls.losses

    def diverging(self: Any, batch: Batch) -> dict[str, Tensor]:
        values = losses(self, batch)
        return {**values, "loss": values["loss"] * (float("nan") if self.global_step >= 3 else 1.0)}

    monkeypatch.setattr(cls, "losses", diverging)
    settings = {**TINY["gnm"], "model_type": "gnm", "out": tmp_path / "run", "accelerator": "cpu", "devices": 1}
    settings |= {"batch_size": 2, "val_size": 2, "num_workers": 0, "max_steps": 8, "val_interval": 2, "log_interval": 1}
    settings |= {"dataset": "tetrominoes", "precision": "32-true", "num_pictures": 0, "train_size": 16}
    with pytest.raises(SystemExit) as error:
        main([f"--{name}={value}" for name, value in settings.items()])
    assert error.value.code == 2
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "has diverged by step 4: its loss is not a finite number. Try a lower --lr" in message
    assert str(last) in message
    checkpoint = read_checkpoint(last)
    assert checkpoint["global_step"] == 2
    assert all(value.isfinite().all() for value in checkpoint["state_dict"].values())
