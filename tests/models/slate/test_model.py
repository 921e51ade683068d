import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn

import object_discovery
from object_discovery import SLATE, Discovery, SLATEParams
from object_discovery.configs import read_config
from object_discovery.discovery import Batch
from object_discovery.train import parse
from tests.models.tiny import SIZE, TINY, make_data, make_images, make_trainer

BATCH = {"image": make_images()}


def make(cls: type[SLATE] = SLATE, **settings: Any) -> SLATE:
    torch.manual_seed(0)
    return cls(**{**TINY["slate"], **settings})


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_published_number_of_parameters() -> None:
    model = SLATE.from_config("slate_clevr")
    assert count(model.dvae) == 681_923
    masks = 8 * 1024**2  # the published count includes the causal masks
    assert round((count(model) + masks) / 1e6, 1) == 16.1
    assert model.decoder.attention(torch.zeros(1, 2, 192), torch.zeros(1, 11, 192)).shape == (1, 11, 2)


PUBLISHED = {
    "lr": 1e-4,
    "dvae_lr": 3e-4,
    "lr_schedule": "constant",
    "warmup_steps": 30_000,
    "patience": 4,
    "clip_norm": 1.0,
    "clip_type": "inf",
    "batch_size": 50,
    "tau_start": 1.0,
    "tau_end": 0.1,
    "tau_steps": 30_000,
    "model_size": 192,
    "slot_size": 192,
    "mlp_size": 192,
    "num_heads": 1,
    "slot_init": "gaussian",
    "gradient": "full",
    "dropout": 0.1,
    "attention_dropout": 0.1,
    "mask_source": "attention",
    "dvae_steps": 0,
    "precision": "32-true",
    "codebook_init": "random",
    "cluster_init": False,
    "dvae_norm": "group",
}
SIZES = {
    "slate_shapes3d": (64, 3, 1024, 4, 4, 3, 160_000, 8000),
    "slate_clevr": (128, 11, 4096, 8, 8, 7, 250_000, 1400),
}


@pytest.mark.parametrize("name", SIZES)
def test_configs_are_the_published_settings(name: str) -> None:
    names = (
        *("resolution", "num_slots", "codebook_size", "decoder_blocks", "decoder_heads"),
        *("num_iterations", "max_steps", "val_interval"),
    )
    expected = {**PUBLISHED, **dict(zip(names, SIZES[name], strict=True))}
    config = read_config(name)
    assert {key: config.get(key, "missing") for key in expected} == expected
    assert config.keys() - expected.keys() <= {"model_type", "dataset", "val_size", "max_objects"}


@pytest.mark.parametrize(("name", "images"), [("slate_shapes3d", 400_000), ("slate_clevr", 70_000)])
def test_configs_validate_after_each_epoch_of_all_scenes(name: str, images: int) -> None:
    run = parse(["--config", name])
    assert run.data.max_objects is None  # CLEVR with masks recommends 6
    assert run.data.train_size is None
    assert run.trainer.val_interval * run.data.batch_size == images


def test_monitored_score_with_and_without_masks() -> None:
    assert SLATE.monitor(has_masks=True) == ("val/mbo_i", "max")
    assert SLATE.monitor(has_masks=False) == ("val/loss", "min")
    assert "loss" in make().extra_metrics()


def test_mse_has_a_gradient_to_the_dvae_only_and_cross_entropy_to_all_else() -> None:
    model = make()
    losses = model.losses(BATCH)
    torch.testing.assert_close(losses["loss"], losses["mse"] + losses["cross_entropy"])
    for name, reached in (("cross_entropy", False), ("mse", True)):
        model.zero_grad()
        losses[name].backward(retain_graph=True)  # type: ignore[no-untyped-call]
        for parameter, value in model.named_parameters():
            assert (value.grad is not None) == (parameter.startswith("dvae.") == reached), parameter


def test_forward_pass_equals_its_layers() -> None:
    model, images = make().eval(), make_images()
    discovery = model(images)
    tokens = model.dvae.encode(images).argmax(-1)
    embedded = model.embedding(tokens)
    slots, attention = model.slot_attention(model.features(embedded[:, 1:]))
    torch.testing.assert_close(discovery.slots, slots)
    grid = attention.view(2, 3, 4, 4)
    torch.testing.assert_close(discovery.attention, grid)
    torch.testing.assert_close(discovery.masks, grid.repeat_interleave(4, 2).repeat_interleave(4, 3))
    reconstruction = model.dvae.decode(F.one_hot(tokens, 8).float(), 4)
    torch.testing.assert_close(discovery.image, reconstruction)
    assert discovery.slot_images is None


def test_validation_scores_the_argmax_tokens() -> None:
    model, images = make().eval(), make_images()
    actual, scores = model.score_batch({"image": images})
    tokens = model.dvae.tokens(images)
    log_probs = model.decoder(model.embedding(tokens)[:, :-1], actual.slots).log_softmax(-1)
    expected = -torch.stack([log_probs[b, range(16), tokens[b]].sum() for b in range(2)])
    torch.testing.assert_close(scores["cross_entropy"], expected)
    assert actual.image is not None
    torch.testing.assert_close(scores["loss"] - expected, ((actual.image - images) ** 2).sum((1, 2, 3)))
    discovery = model(images)
    for value, expected_value in zip(actual, discovery, strict=True):
        assert (value is None) == (expected_value is None)
        if value is not None and expected_value is not None:
            assert torch.equal(value, expected_value)


def test_losses_are_sums_over_pixels_and_tokens() -> None:
    model = make(dropout=0.0)
    torch.manual_seed(7)
    losses = model.losses(BATCH)
    torch.manual_seed(7)
    reconstruction, tokens = model.dvae(BATCH["image"], 1.0)
    torch.testing.assert_close(losses["mse"], ((reconstruction - BATCH["image"]) ** 2).sum() / 2)
    embedded, slots, *_ = model._attend_slots(BATCH["image"], tokens)
    probs = model.decoder(embedded[:, :-1], slots).softmax(-1)
    expected = -(probs.log() * F.one_hot(tokens, 8)).sum() / 2
    torch.testing.assert_close(losses["cross_entropy"], expected)


def test_decoder_masks_are_the_attention_of_the_decoder() -> None:
    model, images = make(mask_source="decoder").eval(), make_images()
    discovery = model(images)
    other = make().eval()(images)
    torch.testing.assert_close(discovery.slots, other.slots)
    assert not torch.allclose(discovery.masks, other.masks)
    torch.testing.assert_close(discovery.masks.sum(1), torch.ones(2, SIZE, SIZE))
    embedded = model.embedding(model.dvae.tokens(images))
    expected = model.decoder.attention(embedded[:, :-1], discovery.slots).view(2, 3, 4, 4)
    torch.testing.assert_close(discovery.attention, expected)
    torch.testing.assert_close(model.score_batch({"image": images})[0].masks, discovery.masks)


def test_images_are_padded_to_whole_patches() -> None:
    model, images = make(resolution=15).eval(), torch.rand(2, 3, 15, 15)
    discovery = model(images)
    assert discovery.image is not None
    assert discovery.masks.shape == (2, 3, 15, 15)
    assert discovery.image.shape == model.compose(discovery.slots).shape == (2, 3, 15, 15)
    padded = torch.cat([images, images[..., -1:]], 3)
    reference = make().eval()
    reference.load_state_dict(model.state_dict())
    torch.testing.assert_close(reference(torch.cat([padded, padded[:, :, -1:]], 2)).slots, discovery.slots)
    assert math.isfinite(float(model.losses({"image": images})["loss"].detach()))


@pytest.mark.parametrize("shape", [(2, 3, 16, 17), (2, 1, 16, 16), (3, 16, 16)])
def test_images_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"`images` to be \(B, 3, 16, 16\), but got"):
        make()(torch.zeros(shape))


@pytest.mark.parametrize("training", [True, False])
def test_reconstruction_goes_through_the_slots_without_dropout(training: bool) -> None:
    model, images = make(dropout=0.5).train(training), make_images()
    with torch.no_grad():
        for module in (model.decoder.to_logits, model.decoder.from_slots):
            module.weight *= 10
    reconstruction = model.reconstruct(images)
    assert reconstruction.shape == (2, 3, SIZE, SIZE)
    assert 0 <= reconstruction.min() <= reconstruction.max() <= 1
    assert all(module.training == training for module in model.modules())
    assert torch.equal(model.reconstruct(images, cached=False), reconstruction)
    slots = model.eval()(images).slots
    assert torch.equal(model.compose(slots), reconstruction)


def test_compose_accepts_slots_of_several_images() -> None:
    model = make().eval()
    with torch.no_grad():
        model.decoder.to_logits.weight *= 10
    slots = 5 * torch.randn(2, 3, 16)
    exchanged = torch.stack([slots[0, 0], slots[0, 1], slots[1, 2]])[None]
    assert not torch.equal(model.compose(exchanged), model.compose(slots[:1]))
    assert model.compose(slots[:, :2]).shape == model.compose(torch.cat([slots, slots], 1)).shape == (2, 3, SIZE, SIZE)
    torch.manual_seed(0)
    sampled = model.compose(slots[:1].expand(4, -1, -1), temperature=5.0)
    assert not torch.equal(sampled, sampled[:1].expand_as(sampled))


@pytest.mark.parametrize("shape", [(3, 16), (1, 3, 17)])
def test_slots_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"`slots` to be \(B, K, 16\), but got"):
        make().compose(torch.zeros(shape))


def test_initial_slots_and_their_number_are_options() -> None:
    model, images = make(slot_init="gaussian", gradient="full").eval(), make_images()
    assert model(images, num_slots=5).masks.shape == (2, 5, SIZE, SIZE)
    initial_slots = torch.randn(2, 4, 16)
    after_one_iteration = model(images, initial_slots, num_iterations=1).slots
    torch.testing.assert_close(
        model(images, after_one_iteration, num_iterations=2).slots, model(images, initial_slots).slots
    )
    assert model.slot_attention.mu.abs().max() <= math.sqrt(6 / 32)
    assert make(num_heads=4).slot_attention.num_heads == 4


class ConstantLoss(SLATE):
    """SLATE with a constant validation loss."""

    def score_batch(self, batch: Batch) -> tuple[Discovery, dict[str, Tensor]]:
        actual, scores = super().score_batch(batch)
        return actual, {**scores, "loss": torch.full_like(scores["loss"], 5.0)}


class Record(Callback):
    """Record learning rates, temperatures, the largest gradients and whether dropout is on."""

    def __init__(self) -> None:
        self.rates: dict[int, list[float]] = {}
        self.taus: dict[int, float] = {}
        self.training: list[bool] = []
        self.max_gradients: list[float] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.rates[trainer.global_step] = [group["lr"] for group in trainer.optimizers[0].param_groups]
        self.training.append(all(module.training for module in pl_module.modules() if isinstance(module, nn.Dropout)))

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        self.taus[trainer.global_step - 1] = float(trainer.callback_metrics["train/tau"])
        gradients = [float(p.grad.abs().max()) for p in pl_module.parameters() if p.grad is not None]
        self.max_gradients.append(max(gradients))


SCHEDULE = {"lr": 1.0, "dvae_lr": 2.0, "warmup_steps": 4, "lr_schedule": "constant", "patience": 2, "tau_steps": 8}


@pytest.mark.parametrize("stop", [3, 6])  # within an epoch, and at the end of one that halves the rate
def test_resumed_schedules_equal_those_of_an_uninterrupted_run(stop: int, tmp_path: Path) -> None:
    def run(max_steps: int, record: Record, name: str, **settings: Any) -> SLATE:
        model = make(ConstantLoss, **SCHEDULE)
        last = ModelCheckpoint(tmp_path / name, save_last=True)  # after each validation
        trainer = make_trainer(max_steps, callbacks=[record, last], enable_checkpointing=True)
        trainer.fit(model, make_data(), **settings)
        if trainer.global_step % 2:
            trainer.save_checkpoint(tmp_path / name / "last.ckpt")
        return model

    uninterrupted, resumed = Record(), Record()
    expected = run(12, uninterrupted, "whole")
    run(stop, Record(), "part")
    actual = run(12, resumed, "rest", ckpt_path=str(tmp_path / "part" / "last.ckpt"))
    assert resumed.rates == {step: rates for step, rates in uninterrupted.rates.items() if step >= stop}
    assert resumed.taus == {step: tau for step, tau in uninterrupted.taus.items() if step >= stop}
    assert actual.plateau == expected.plateau
    # Two batches an epoch: the best loss at step 2, halved after 6 and 10, which acts from the next scheduling on.
    halved = [0.25 if step > 10 else 0.5 if step > 6 else 1.0 for step in range(12)]
    assert [uninterrupted.rates[step][0] for step in range(12)] == pytest.approx(
        [min(1, s / 4) * halved[s] for s in range(12)]
    )
    assert [uninterrupted.rates[step][1] for step in range(12)] == pytest.approx([2 * factor for factor in halved])
    cosine = [0.45 * math.cos(math.pi * min(step, 8) / 8) + 0.55 for step in range(12)]
    assert [uninterrupted.taus[step] for step in range(12)] == pytest.approx(cosine)


def test_validation_outside_fit_does_not_change_the_plateau() -> None:
    model = make(ConstantLoss, patience=1)
    trainer = make_trainer(1)
    for _ in range(3):
        trainer.validate(model, make_data(), verbose=False)
    assert model.plateau is not None
    assert model.plateau.halvings == 0


def test_checkpoints_load_with_any_patience(tmp_path: Path) -> None:
    model = make(ConstantLoss, patience=1)
    trainer = make_trainer(6)
    trainer.fit(model, make_data())
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    loaded = object_discovery.load(tmp_path / "a.ckpt")
    assert isinstance(loaded, SLATE)
    assert loaded.plateau == model.plateau
    assert loaded.plateau is not None
    assert loaded.plateau.halvings == 2


def test_dropout_stays_on_throughout_training() -> None:
    record = Record()
    make_trainer(6, callbacks=[record]).fit(make(), make_data())
    assert record.training == [True] * 6


def test_gradients_are_clipped_by_their_largest_entry() -> None:
    settings: dict[str, Any] = {"warmup_steps": 0, "clip_type": "inf"}
    clipped, unclipped = Record(), Record()
    make_trainer(3, callbacks=[clipped]).fit(make(clip_norm=0.01, **settings), make_data())
    make_trainer(3, callbacks=[unclipped]).fit(make(clip_norm=None, **settings), make_data())
    assert clipped.max_gradients == pytest.approx([0.01] * 3, rel=1e-3)
    assert min(unclipped.max_gradients) > 0.02


def test_dvae_is_trained_for_dvae_steps_then_frozen() -> None:
    class Steps(Record):
        """Record which of dVAE and decoder is updated."""

        def __init__(self) -> None:
            super().__init__()
            self.updated: list[tuple[bool, bool]] = []
            self.before: list[Tensor] = []

        def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
            self.rates[trainer.global_step] = [group["lr"] for group in trainer.optimizers[0].param_groups]
            self.before = [value.detach().clone() for value in self.parts(pl_module)]

        def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
            pairs = zip(self.before, self.parts(pl_module), strict=True)
            dvae, decoder = (not torch.equal(old, new) for old, new in pairs)
            self.updated.append((dvae, decoder))

        @staticmethod
        def parts(model: LightningModule) -> list[Tensor]:
            assert isinstance(model, SLATE)
            return [model.dvae.to_logits.weight, model.decoder.to_logits.weight]

    steps = Steps()
    make_trainer(8, callbacks=[steps]).fit(
        make(dvae_steps=3, lr=1e-2, warmup_steps=2, lr_schedule="constant"), make_data()
    )
    assert (
        steps.updated == [(True, False)] * 3 + [(False, False)] + [(False, True)] * 4
    )  # the warm-up starts at a rate of 0
    assert [rates[0] for rates in steps.rates.values()] == pytest.approx([0, 0, 0, 0, 5e-3, 1e-2, 1e-2, 1e-2])


def test_frozen_dvae_keeps_its_running_statistics() -> None:
    class Statistics(Callback):
        """Record after each step the number of batches in the running statistics."""

        def __init__(self) -> None:
            self.counts: list[int] = []

        def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
            self.counts.append(int(pl_module.get_buffer("dvae.norm.num_batches_tracked")))

    statistics = Statistics()
    make_trainer(5, callbacks=[statistics]).fit(make(dvae_steps=2), make_data())
    assert statistics.counts == [1, 2, 2, 2, 2]


def test_only_an_untrained_codebook_is_initialised_from_the_first_batch() -> None:
    class InitialCodebook(Callback):
        """Record the codebook at the first step."""

        def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
            if not hasattr(self, "codebook"):
                self.codebook = pl_module.get_parameter("dvae.to_logits.weight").detach().clone()

    def fit(model: SLATE) -> bool:
        """Train for 2 steps and return whether the codebook was reinitialised."""
        before, initial = model.dvae.to_logits.weight.detach().clone(), InitialCodebook()
        make_trainer(2, callbacks=[initial]).fit(model, make_data())
        return not torch.equal(before, initial.codebook)

    model, random = make(), make(codebook_init="random")
    assert fit(model)
    assert not fit(random)
    for trained in (model, random):
        loaded = make()
        loaded.dvae.load_state_dict(trained.dvae.state_dict())
        assert not fit(loaded)


def test_second_fit_trains_the_dvae_again() -> None:
    model = make(dvae_steps=1)
    for _ in range(2):
        make_trainer(2).fit(model, make_data())
    assert int(model.dvae.norm.num_batches_tracked) == 2  # type: ignore[arg-type]
    make_trainer(2).fit(model.eval(), make_data())  # as `load` returns it
    assert model.training
    assert int(model.dvae.norm.num_batches_tracked) == 3  # type: ignore[arg-type]


def test_max_steps_within_dvae_steps_are_warned_about() -> None:
    with pytest.warns(UserWarning, match="`max_steps` 2 is not above `dvae_steps` 2"):
        make_trainer(2).fit(make(dvae_steps=2), make_data())


def test_two_stage_training_and_composition() -> None:
    model = make(dvae_steps=2, cluster_init=True)
    make_trainer(4, limit_val_batches=1).fit(model, make_data())
    discovery = model.eval()(make_images())
    torch.testing.assert_close(discovery.masks.sum(1), torch.ones_like(discovery.masks[:, 0]))
    assert model.compose(discovery.slots).isfinite().all()


def test_regularizer_warm_up_starts_after_dvae_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make(dvae_steps=4, cosine_weight=1.0, cosine_warmup=10)
    for step, expected in ((0, 0.0), (4, 0.0), (9, 0.5), (20, 1.0)):
        monkeypatch.setattr(SLATE, "global_step", step)
        assert model._regularizer_weights()["cosine"] == pytest.approx(expected)


@pytest.mark.parametrize(("step", "noise"), [(0, 1.0), (4, 1.0), (9, 0.5), (14, 0.0)])
def test_slot_noise_schedule_starts_after_dvae_steps(step: int, noise: float, monkeypatch: pytest.MonkeyPatch) -> None:
    model, noises = make(dvae_steps=4, noise_steps=10, slot_init="learned"), []
    initial_slots = model.slot_attention.initial_slots

    def record_noise(batch_size: int, num_slots: int | None, noise: float) -> Tensor:
        noises.append(noise)
        return initial_slots(batch_size, num_slots, noise)

    monkeypatch.setattr(model.slot_attention, "initial_slots", record_noise)
    monkeypatch.setattr(SLATE, "global_step", step)
    model._attend_slots(BATCH["image"], model.dvae.tokens(BATCH["image"]))
    assert noises == pytest.approx([noise])


@pytest.mark.parametrize("decay_steps", [None, 14])
def test_cosine_schedule_after_dvae_steps_ends_at_zero(decay_steps: int | None) -> None:
    model = make(dvae_steps=4, lr_schedule="cosine", warmup_steps=2, decay_steps=decay_steps)
    model._total_steps = 14
    (_, main), (_, dvae) = model.parameter_groups()
    assert [main(step) for step in (0, 4, 5, 6, 10, 14)] == pytest.approx([0, 0, 0.5, 1, 0.5, 0])
    assert dvae(14) == 1


def test_training_lowers_both_losses() -> None:
    model = make(dropout=0.0, dvae_lr=1e-2)
    groups = [group for group, _ in model.parameter_groups()]
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    optimizer = torch.optim.Adam(groups, lr=1e-2)
    images = torch.zeros(2, 3, SIZE, SIZE)
    images[0, 0, :8], images[1, 1, :, 8:] = 1, 1
    history = []
    for _ in range(120):
        optimizer.zero_grad()
        losses = model.losses({"image": images})
        losses["loss"].backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        history.append({name: float(value.detach()) for name, value in losses.items()})
    for name, ratio in (("mse", 0.1), ("cross_entropy", 0.75)):  # sampled tokens cannot be predicted exactly
        assert sum(step[name] for step in history[-10:]) < ratio * sum(step[name] for step in history[:10])


def test_params_object_is_accepted() -> None:
    params = SLATEParams(**TINY["slate"])
    assert SLATE(params).params is params


def test_pictures_show_the_reconstruction_from_slots_after_dvae_steps() -> None:
    model, images = make().eval(), make_images()
    discovery = model(images)
    assert torch.equal(model.pictures(images, discovery)["from slots"], model.reconstruct(images))
    assert make(dvae_steps=1).eval().pictures(images, discovery) == {}


def test_two_processes_train_in_stages(tmp_path: Path) -> None:
    out = tmp_path / "weights.pt"
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.models.slate.two_processes", str(out)],
        cwd=Path(__file__).parents[3],
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    initial, *steps = torch.load(out, weights_only=True)  # after each of 5 steps; the first 2 train the dVAE
    updated = []
    for before, after in zip([initial, *steps], steps, strict=False):
        changed = {name for name in after if not torch.equal(before[name], after[name])}
        updated.append(
            (any(name.startswith("dvae.") for name in changed), any(name.startswith("decoder.") for name in changed))
        )
    assert updated == [(True, False)] * 2 + [(False, True)] * 3
