import math
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

import object_discovery
from object_discovery import SlotAttentionModel
from object_discovery.configs import read_config
from object_discovery.errors import CheckpointError, UserError
from object_discovery.models import MODELS, ObjectDiscoveryModel
from object_discovery.models.checkpoints import read_checkpoint
from object_discovery.params import ModelParams
from tests.models.tiny import make_data, make_images, make_model, make_trainer
from tests.models.two_processes import train_and_score


class OtherModel(SlotAttentionModel):
    """A model of another type."""

    model_type = "other"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return save(make_model("sa"), tmp_path / "sa.ckpt")


def save(model: ObjectDiscoveryModel[Any], path: Path) -> Path:
    trainer = make_trainer(1)
    trainer.strategy.connect(model)
    trainer.save_checkpoint(path, weights_only=True)
    return path


def test_missing_checkpoints_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="There is no checkpoint at"):
        object_discovery.load(tmp_path / "none.ckpt")
    with pytest.raises(CheckpointError, match=r"Expected a run folder with checkpoints/best\.ckpt, but .* has none"):
        object_discovery.load(tmp_path)


def test_run_folder_loads_its_best_or_last_checkpoint(checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run" / "checkpoints"
    folder.mkdir(parents=True)
    for name, num_iterations in (("last", 2), ("best", 3)):
        content = torch.load(checkpoint, weights_only=True)
        content["hyper_parameters"]["num_iterations"] = num_iterations
        torch.save(content, folder / f"{name}.ckpt")
        model = object_discovery.load(folder.parent)
        assert model.params.num_iterations == num_iterations  # type: ignore[attr-defined]


def test_run_info_is_kept_when_loading_and_saving(checkpoint: Path, tmp_path: Path) -> None:
    assert object_discovery.load(checkpoint).run_info == {}
    run = {"dataset": "tetrominoes", "fit": "crop", "validation": {"mse": 0.01}}
    torch.save({**torch.load(checkpoint, weights_only=True), "run": run}, tmp_path / "run.ckpt")
    model = object_discovery.load(tmp_path / "run.ckpt")
    assert model.run_info == run
    saved: dict[str, Any] = {}
    model.on_save_checkpoint(saved)
    assert saved["run"] == run
    newer = {"run": {"dataset": "coco"}}
    model.on_save_checkpoint(newer)
    assert newer["run"] == {"dataset": "coco"}


@pytest.mark.parametrize("fraction", [0, 10, 0.5, 0.99])
def test_damaged_checkpoints_are_refused(fraction: float, checkpoint: Path) -> None:
    content = checkpoint.read_bytes()
    checkpoint.write_bytes(content[: int(fraction * len(content)) if fraction < 1 else int(fraction)])
    with pytest.raises(CheckpointError, match="is not a checkpoint that can be read"):
        object_discovery.load(checkpoint)


class Harmful:
    def __reduce__(self) -> Any:
        return os.system, ("exit 1",)


def test_loading_executes_no_code(checkpoint: Path) -> None:
    values = torch.load(checkpoint, weights_only=True)
    torch.save({**values, "extra": Harmful()}, checkpoint)
    with pytest.raises(CheckpointError, match="is not a checkpoint that can be read"):
        object_discovery.load(checkpoint)
    checkpoint.write_bytes(pickle.dumps(Harmful()))
    with pytest.raises(CheckpointError, match="is not a checkpoint that can be read"):
        SlotAttentionModel.load_from_checkpoint(checkpoint)


@pytest.mark.parametrize("content", [{"state_dict": {}}, [1, 2], 3])
def test_files_of_other_programs_are_refused(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "x.ckpt")
    with pytest.raises(CheckpointError, match="is not a checkpoint of this library"):
        read_checkpoint(tmp_path / "x.ckpt")


def test_checkpoints_of_other_models_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"of model type other, but .* is of sa"):
        OtherModel.load_from_checkpoint(checkpoint)
    with pytest.raises(CheckpointError, match="is of model type 'other', which this version does not know"):
        object_discovery.load(save(OtherModel(), tmp_path / "other.ckpt"))


def test_unknown_configs_are_refused() -> None:
    with pytest.raises(UserError, match=r"a YAML file or one of .*sa_clevr6.*, but got 'no_such'"):
        read_config("no_such")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"a: [1", "is not YAML"),
        (b"- 1\n- 2", "to hold `flag: value` lines, but got list"),
        (b"\xff\xfe\x00", "is not"),
    ],
)
def test_files_that_are_no_configs_are_refused(text: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(text)
    with pytest.raises(UserError, match=message):
        read_config(path)


def test_configs_of_other_models_are_refused() -> None:
    with pytest.raises(UserError, match="of model type other, but sa_clevr6 is of sa"):
        OtherModel.from_config("sa_clevr6")


def test_config_files_without_a_model_type(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("num_slots: 5\nbatch_size: 3\n")
    assert SlotAttentionModel.from_config(path).params.num_slots == 5
    assert SlotAttentionModel.from_config(str(path), num_slots=2).params.num_slots == 2


def test_subclasses_must_define_forward_and_losses() -> None:
    class Empty(ObjectDiscoveryModel[ModelParams]):
        """A model without forward and losses."""

        model_type = "empty"
        params_class = ModelParams

    with pytest.raises(TypeError, match="Empty has no forward"):
        Empty()(make_images())
    with pytest.raises(TypeError, match="Empty has no losses"):
        Empty().losses({"image": make_images()})


def test_networks_hold_all_parameters() -> None:
    model = make_model("sa")
    num_parameters = sum(parameter.numel() for network in model.networks() for parameter in network.parameters())
    assert num_parameters == sum(parameter.numel() for parameter in model.parameters())
    assert model.scores not in list(model.networks())


class Record(Callback):
    """Record the learning rate and the norm of the gradient at each step."""

    def __init__(self) -> None:
        self.rates: dict[int, float] = {}
        self.norms: list[float] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.rates[trainer.global_step] = trainer.optimizers[0].param_groups[0]["lr"]

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        gradients = [p.grad.flatten() for p in pl_module.parameters() if p.grad is not None]
        self.norms.append(float(torch.cat(gradients).norm()))


def test_published_learning_rate_through_the_real_scheduler() -> None:
    model = MODELS["sa"].from_config("sa_tetrominoes")
    model.trainer = make_trainer(500_000)
    parts = model.configure_optimizers()
    optimizer, scheduler = parts["optimizer"], parts["lr_scheduler"]["scheduler"]
    assert parts["lr_scheduler"]["interval"] == "step"
    group = optimizer.param_groups[0]
    assert type(optimizer) is torch.optim.Adam
    assert (group["betas"], group["eps"], group["weight_decay"]) == ((0.9, 0.999), 1e-8, 0)
    assert group["lr"] == 0
    for step, rate in ((1, 4e-8), (10_000, 3.732e-4), (100_000, 2e-4), (500_000, 1.25e-5)):
        optimizer.step()
        scheduler.last_epoch = step - 1
        scheduler.step()
        assert group["lr"] == pytest.approx(rate, rel=1e-4)


@pytest.mark.parametrize("decay_steps", [None, 6])
def test_cosine_schedule_ends_with_the_run_unless_decay_steps_is_set(decay_steps: int | None) -> None:
    record = Record()
    model = make_model("sa", lr=1.0, warmup_steps=2, lr_schedule="cosine", decay_steps=decay_steps)
    make_trainer(4, callbacks=[record]).fit(model, make_data())
    factors = {None: [0, 0.5, 1, 0.5], 6: [0, 0.5, 1, 0.5 + 0.5 / 2**0.5]}[decay_steps]
    assert [record.rates[step] for step in range(4)] == pytest.approx(factors)


@pytest.mark.parametrize(("schedule", "factor"), [("cosine", 1.0), ("constant", 1.0), ("exponential", 0.5)])
def test_learning_rate_of_a_run_without_max_steps(schedule: str, factor: float) -> None:
    model = make_model("sa", warmup_steps=2, lr_schedule=schedule, half_life=10)
    assert math.isinf(model._total_steps)
    assert model.learning_rate_factor(10) == factor


def norms(clip_norm: float | None, **settings: Any) -> list[float]:
    record = Record()
    model = make_model("sa", clip_norm=clip_norm, lr_schedule="constant", warmup_steps=0)
    make_trainer(3, callbacks=[record], **settings).fit(model, make_data())
    return record.norms


def test_gradients_are_clipped() -> None:
    unclipped = norms(None)
    assert len(unclipped) == 3
    assert min(unclipped) > 0.01
    assert norms(0.01) == pytest.approx([0.01] * len(unclipped), rel=1e-3)
    assert norms(1e6) == pytest.approx(unclipped)


def test_gradient_clip_val_of_the_trainer_is_applied() -> None:
    clipped = norms(1e6, gradient_clip_val=0.02)
    assert clipped == pytest.approx([0.02] * len(clipped), rel=1e-3)


def states(model: ObjectDiscoveryModel[Any], trainer: Trainer) -> list[Tensor]:
    """Return the weights and the optimiser's moments."""
    moments = [value for state in trainer.optimizers[0].state.values() for value in state.values()]
    return [*model.state_dict().values(), *moments]


@pytest.mark.parametrize("stop", [2, 3])  # at the end of an epoch, and within one
def test_resumed_run_equals_an_uninterrupted_one(stop: int, tmp_path: Path) -> None:
    def run(max_steps: int, *callbacks: Callback, **settings: Any) -> list[Tensor]:
        model = make_model("sa", slot_init="learned", lr_schedule="cosine", decay_steps=10)
        trainer = make_trainer(max_steps, callbacks=list(callbacks), enable_checkpointing=True)
        trainer.fit(model, make_data(), **settings)
        assert trainer.global_step == max_steps
        return states(model, trainer)

    uninterrupted, resumed = Record(), Record()
    checkpoints = [
        ModelCheckpoint(tmp_path / name, save_last=True, every_n_train_steps=stop, save_top_k=0) for name in "abc"
    ]
    expected = run(6, uninterrupted, checkpoints[0])
    run(stop, checkpoints[1])
    actual = run(6, resumed, checkpoints[2], ckpt_path=str(tmp_path / "b" / "last.ckpt"))
    assert resumed.rates == {step: rate for step, rate in uninterrupted.rates.items() if step >= stop}
    assert len(actual) == len(expected)
    assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))


def test_two_processes_train_and_score_as_one_with_batches_twice_as_large(tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.models.two_processes", str(tmp_path / "two.pt")],
        cwd=Path(__file__).parents[2],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    train_and_score(str(tmp_path / "one.pt"), devices=1, batch_size=8)
    one, two = (torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ("one", "two"))
    assert (one["world"], two["world"]) == (1, 2)
    assert {"val/fg_ari", "val/mse", "test/miou", "test/active_slots"} <= one["scores"].keys()
    torch.testing.assert_close(two["scores"], one["scores"], rtol=1e-4, atol=1e-5)
    initial = make_model("sa").state_dict()
    updates = {name: one["weights"][name] - initial[name] for name in one["weights"]}
    assert sum(float(update.abs().sum()) for update in updates.values()) > 0
    for name, weight in two["weights"].items():
        if name == "slot_attention.norm_slots.bias":  # its gradient is rounding alone, as the softmax cancels it
            continue
        difference = (weight - one["weights"][name]).abs().mean()
        assert difference <= 0.02 * updates[name].abs().mean() + 1e-7, name
