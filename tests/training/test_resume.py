"""Resumed runs."""

import shutil
from pathlib import Path

import pytest
import torch
import yaml

from object_discovery.errors import CheckpointError
from object_discovery.train import parse
from tests.training.runs import (
    IGNORE_WARNINGS,
    VALIDATION_COLUMNS,
    VALIDATION_SCORES,
    fit,
    load_checkpoint,
    read_metrics,
    weights_and_moments,
)

pytestmark = IGNORE_WARNINGS


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train 17 steps without interruption."""
    out = tmp_path_factory.mktemp("uninterrupted")
    fit(out, max_steps=17)
    return out


@pytest.mark.parametrize("stop", [5, 6, 7, 15])  # end of an epoch, after a validation, neither, both
def test_resumed_run_equals_an_uninterrupted_one(stop: int, uninterrupted: Path, tmp_path: Path) -> None:
    fit(tmp_path, max_steps=stop)
    first_rows = (tmp_path / "metrics.csv").read_text().splitlines()
    final_validation = read_metrics(tmp_path, *VALIDATION_COLUMNS)[-1:] if stop % 3 else []
    fit(tmp_path, max_steps=17, resume="auto")
    assert (tmp_path / "metrics.csv").read_text().splitlines()[: len(first_rows)] == first_rows
    assert load_checkpoint(tmp_path)["global_step"] == 17
    expected = weights_and_moments(uninterrupted)
    assert len(weights_and_moments(tmp_path)) == len(expected)
    assert all(torch.equal(a, b) for a, b in zip(weights_and_moments(tmp_path), expected, strict=True))
    for columns in (("step", "lr"), ("step", "epoch", "train/loss")):
        assert read_metrics(tmp_path, *columns) == read_metrics(uninterrupted, *columns)
    assert sorted(read_metrics(tmp_path, *VALIDATION_COLUMNS)) == sorted(
        read_metrics(uninterrupted, *VALIDATION_COLUMNS) + final_validation
    )
    assert yaml.safe_load((tmp_path / "params.yaml").read_text())["max_steps"] == 17


def test_metrics_of_repeated_steps_are_dropped(uninterrupted: Path, tmp_path: Path) -> None:
    fit(tmp_path, max_steps=7)
    earlier = (tmp_path / "checkpoints" / "last.ckpt").read_bytes()
    fit(tmp_path, max_steps=11, resume="auto")
    (tmp_path / "checkpoints" / "early.ckpt").write_bytes(earlier)
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write("0.5,")  # the process was killed while it wrote a row
    fit(tmp_path, max_steps=17, resume=tmp_path / "checkpoints" / "early.ckpt")
    assert read_metrics(tmp_path, "step", "train/loss") == read_metrics(uninterrupted, "step", "train/loss")
    steps = [step for step, _ in read_metrics(tmp_path, "step", "val/mse")]
    assert steps == ["2", "5", "7", "8", "11", "14", "17"]


def test_resuming_a_finished_run_validates_it(
    uninterrupted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = Path(shutil.copytree(uninterrupted, tmp_path / "run"))
    capsys.readouterr()
    scores = fit(out, max_steps=17, resume="auto")
    assert scores.keys() >= VALIDATION_SCORES
    assert "fg_ari" in capsys.readouterr().out
    assert read_metrics(out, "step", "train/loss") == read_metrics(uninterrupted, "step", "train/loss")
    assert load_checkpoint(out)["global_step"] == 17


def test_checkpoint_of_a_resumed_run_has_the_scores_of_the_last_validation(tmp_path: Path) -> None:
    fit(tmp_path, max_steps=3)
    scores = load_checkpoint(tmp_path)["run"]["validation"]
    fit(tmp_path, max_steps=4, val_interval=10**6, resume="auto", max_time="00:00:00:00")  # time limit: no further step
    assert load_checkpoint(tmp_path)["run"]["validation"].keys() == scores.keys()


def test_resume_auto_starts_a_new_run_without_a_checkpoint(tmp_path: Path) -> None:
    fit(tmp_path / "run", max_steps=1, resume="auto")
    assert load_checkpoint(tmp_path / "run")["global_step"] == 1


def test_a_run_folder_is_resumed_from_its_last_checkpoint(tmp_path: Path) -> None:
    fit(tmp_path / "first", max_steps=2)
    fit(tmp_path / "second", max_steps=3, resume=tmp_path / "first")
    assert load_checkpoint(tmp_path / "second")["global_step"] == 3
    (tmp_path / "third").mkdir()
    with pytest.raises(CheckpointError, match=r"third.checkpoints.last\.ckpt"):
        fit(tmp_path / "fourth", max_steps=3, resume=tmp_path / "third")


def test_resumed_run_has_the_settings_of_the_run(tmp_path: Path) -> None:
    fit(tmp_path / "run", max_steps=3, lr=5e-4)
    run = parse(["--resume", "auto", "--out", str(tmp_path / "run"), "--max_steps", "9"])
    assert (run.model.lr, run.trainer.max_steps, run.trainer.resume) == (5e-4, 9, "auto")
    assert run.data.resolution == 16
    assert yaml.safe_load((tmp_path / "run" / "params.yaml").read_text())["resume"] is None
