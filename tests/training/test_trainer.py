"""Precision, compilation and loggers."""

import time
from pathlib import Path

import pytest
import torch
from lightning.pytorch.loggers import WandbLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from object_discovery.train import main, parse
from object_discovery.training.trainer import build_model, choose_precision
from tests.training.runs import IGNORE_WARNINGS, fit, tiny_flags

pytestmark = IGNORE_WARNINGS


@pytest.mark.parametrize(
    ("accelerator", "cuda", "gpu_has_bf16", "cpu_has_bf16", "expected"),
    [
        ("auto", False, False, True, "bf16-mixed"),
        ("auto", False, False, False, "32-true"),
        ("auto", True, True, False, "bf16-mixed"),
        ("gpu", True, False, True, "32-true"),
        ("cpu", True, True, False, "32-true"),
        ("cpu", True, False, True, "bf16-mixed"),
        ("mps", False, False, True, "32-true"),
    ],
)
def test_auto_precision_is_bf16_if_supported_by_the_hardware(
    accelerator: str,
    cuda: bool,
    gpu_has_bf16: bool,
    cpu_has_bf16: bool,
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation: gpu_has_bf16 and not including_emulation
    )
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr("object_discovery.training.trainer.cpu_has_bf16", lambda: cpu_has_bf16)
    assert choose_precision("auto", accelerator) == expected
    assert choose_precision("64-true", accelerator) == "64-true"


def test_auto_precision_is_single_on_a_mac(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr("object_discovery.training.trainer.cpu_has_bf16", lambda: True)
    assert choose_precision("auto", "auto") == "32-true"


def test_compile_compiles_every_network(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[torch.nn.Module] = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: compiled.append(self))
    assert compiled == []
    build_model(parse(tiny_flags("run", compile=False)))
    assert compiled == []
    model = build_model(parse(tiny_flags("run", compile=True)))
    assert compiled == list(model.networks())
    assert len(compiled) == 4


def test_tensorboard_has_one_event_file(tmp_path: Path) -> None:
    scores = fit(tmp_path, logger="tensorboard", max_steps=4)  # validates at step 3, and after the last step
    (path,) = tmp_path.glob("events.out.tfevents.*")
    events = EventAccumulator(str(path)).Reload()  # type: ignore[no-untyped-call]
    assert events.Scalars("val/fg_ari")[-1].value == pytest.approx(scores["val/fg_ari"])
    assert [event.step for event in events.Scalars("train/loss")] == [0, 1, 2, 3]
    assert [event.step for event in events.Images("val/pictures")] == [3, 4]
    assert (tmp_path / "metrics.csv").exists()


def test_scores_are_logged_to_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"WANDB_SILENT": "true", "WANDB_CONSOLE": "off", "WANDB_DISABLE_GIT": "true"}.items():
        monkeypatch.setenv(name, value)
    fit(tmp_path, logger="wandb", wandb_offline=True, max_steps=3)
    (path,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    end = time.monotonic() + 30  # wandb writes in another process
    while b"val/fg_ari" not in path.read_bytes() and time.monotonic() < end:
        time.sleep(0.1)
    assert b"val/fg_ari" in path.read_bytes()
    assert (tmp_path / "metrics.csv").exists()


def test_missing_wandb_key_is_reported_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import wandb

    def log_in(_: WandbLogger) -> None:
        raise wandb.Error("No API key configured.")

    monkeypatch.setattr(WandbLogger, "experiment", property(log_in))
    with pytest.raises(SystemExit) as error:
        main([*tiny_flags(tmp_path / "run"), "--logger", "wandb"])
    assert error.value.code == 2
    assert capsys.readouterr().err == "error: No API key configured. (or add --wandb_offline true)\n"
    assert not (tmp_path / "run").exists()
