"""Output of a training run: files and printed lines."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

import object_discovery
from object_discovery.data.datasets.ravens import RavensDataModule
from object_discovery.data.datasets.tetrominoes import TetrominoesDataModule
from object_discovery.train import parse
from object_discovery.training.fit import _warn_of_clusters, train, training_fit
from tests.data.layouts.ravens import write_ravens
from tests.training.runs import IGNORE_WARNINGS, VALIDATION_SCORES, fit, load_checkpoint, read_metrics, tiny_flags

pytestmark = IGNORE_WARNINGS


def test_run_writes_settings_metrics_checkpoints_and_pictures(tmp_path: Path) -> None:
    out = tmp_path / "run"
    run = parse(tiny_flags(out, clip_norm=None))
    scores = train(run)
    assert parse(["--config", str(out / "params.yaml")]) == run
    assert yaml.safe_load((out / "params.yaml").read_text())["clip_norm"] is None
    assert scores.keys() >= VALIDATION_SCORES
    steps = [str(step) for step in range(4)]
    assert [step for step, _ in read_metrics(out, "step", "train/loss")] == steps
    assert [step for step, _ in read_metrics(out, "step", "train/images_per_second")] == steps
    assert [float(rate) for (rate,) in read_metrics(out, "lr")][:3] == pytest.approx([0, 1e-3, 2e-3])
    names = sorted(VALIDATION_SCORES)
    rows = read_metrics(out, "step", *names)
    assert [row[0] for row in rows] == ["2", "4"]
    assert [float(value) for value in rows[-1][1:]] == pytest.approx([scores[name] for name in names])
    assert [load_checkpoint(out)["global_step"], load_checkpoint(out)["model_type"]] == [4, "sa"]
    assert load_checkpoint(out, "best")["global_step"] in (3, 4)
    assert sorted(path.name for path in (out / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]
    assert [path.name for path in sorted((out / "images").iterdir())] == ["step_0000003.png", "step_0000004.png"]
    with Image.open(out / "images" / "step_0000004.png") as picture:
        assert np.asarray(picture).std() > 10
    assert not object_discovery.load(out / "checkpoints" / "last.ckpt").training


def test_run_without_a_terminal_prints_steps_and_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scores = fit(tmp_path, log_interval=2)
    lines = capsys.readouterr().out
    assert "6 scenes of 16 x 16 pixels" in lines
    assert f"run: {tmp_path}\n" in lines
    assert "compiling" not in lines
    steps = re.findall(r"^step +(\d)/4  loss \S+  images/s \S+  0:00:0\d left$", lines, re.MULTILINE)
    assert steps == ["2", "4"]
    assert re.findall(r"^validation at step (\d)$", lines, re.MULTILINE) == ["3", "4"]
    tables = re.findall(r"\bfg_ari +│ (\S+)", lines)
    assert len(tables) == 2
    assert tables[-1] == f"{scores['val/fg_ari']:.4f}"
    paths = [tmp_path / "checkpoints" / "last.ckpt", tmp_path / "images" / "step_0000004.png"]
    assert lines.endswith(f"checkpoint: {paths[0]}\npicture: {paths[1]}\n")


def test_run_on_a_terminal_has_a_progress_bar_and_one_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    fit(tmp_path, log_interval=1)
    lines = capsys.readouterr().out
    assert " left" not in lines
    assert "validation at step" not in lines
    assert len(re.findall(r"\bfg_ari +│", lines)) == 1


def test_compiling_is_announced_before_the_first_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.nn.Module.compile", lambda self: None)
    fit(tmp_path, compile=True, max_steps=1)
    lines = capsys.readouterr().out
    assert lines.index("compiling the networks") < lines.index("step ")


def test_the_last_step_is_validated_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit(tmp_path / "a", max_steps=3, num_pictures=0)
    assert [step for step, _ in read_metrics(tmp_path / "a", "step", "val/mse")] == ["2"]
    assert not (tmp_path / "a" / "images").exists()
    assert "picture" not in capsys.readouterr().out
    fit(tmp_path / "c", max_steps=2, val_interval=10**6)  # the only validation is at the end
    assert (tmp_path / "c" / "checkpoints" / "best.ckpt").exists()
    fit(tmp_path / "b", max_steps=10**6, max_time="00:00:00:01", val_interval=10**6)
    assert 1 < load_checkpoint(tmp_path / "b")["global_step"] < 10**6
    assert len(read_metrics(tmp_path / "b", "step", "val/mse")) == 1


def test_the_best_checkpoint_is_of_the_best_validation(tmp_path: Path) -> None:
    fit(tmp_path, max_steps=9)
    scores = {int(step) + 1: float(score) for step, score in read_metrics(tmp_path, "step", "val/mbo_i")}
    assert len(scores) == 3
    assert scores[load_checkpoint(tmp_path, "best")["global_step"]] == max(scores.values())


@pytest.mark.parametrize("max_steps", [3, 4])  # the last step is validated during the run, and after it
def test_checkpoints_hold_dataset_fit_and_validation_scores(max_steps: int, tmp_path: Path) -> None:
    scores = fit(tmp_path, max_steps=max_steps, fit="squash")
    run = load_checkpoint(tmp_path)["run"]
    assert object_discovery.load(tmp_path).run_info.keys() == run.keys()
    assert (run["dataset"], run["fit"]) == ("tetrominoes", "squash")
    assert {f"val/{name}": value for name, value in run["validation"].items()} == pytest.approx(
        {name: value for name, value in scores.items() if name.startswith("val/")}, nan_ok=True
    )
    assert load_checkpoint(tmp_path, "best")["run"]["validation"].keys() == run["validation"].keys()


def test_training_fit_is_crop_or_squash(tmp_path: Path) -> None:
    assert training_fit(TetrominoesDataModule(resolution=16)) == "crop"
    assert training_fit(TetrominoesDataModule(resolution=16, fit="squash")) == "squash"
    write_ravens(tmp_path)
    assert training_fit(RavensDataModule(data_root=str(tmp_path), resolution=16)) == "squash"
    assert training_fit(RavensDataModule(data_root=str(tmp_path), resolution=16, fit="crop")) == "crop"


def test_untrained_clusters_that_segment_better_are_warned_of(capsys: pytest.CaptureFixture[str]) -> None:
    scores = {"val/fg_ari": 0.9, "val/ari": 0.5, "val/cluster_fg_ari": 0.8, "val/cluster_ari": 0.7, "val/mbo_i": 0.1}
    _warn_of_clusters(scores)
    warning = "the untrained clusters of cluster_init segment better than the model: ari 0.500 against 0.700"
    assert capsys.readouterr().err == f"warning: {warning}\n"
    _warn_of_clusters({**scores, "val/ari": 0.7})
    _warn_of_clusters({"val/mse": 0.1})
    assert not capsys.readouterr().err


def test_the_seed_determines_the_losses(tmp_path: Path) -> None:
    losses = []
    for index, seed in enumerate((1, 1, 2)):
        fit(tmp_path / str(index), seed=seed, val_interval=100)
        losses.append(read_metrics(tmp_path / str(index), "train/loss"))
    assert losses[0] == losses[1]
    assert losses[0][0] != losses[2][0]


def test_two_runs_of_one_process_have_different_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        argv = tiny_flags("", max_steps=1, num_pictures=0)
        train(parse([argument for argument in argv if not argument.startswith("--out")]))
    assert sorted(path.name for path in Path("runs").iterdir()) == ["sa_tetrominoes", "sa_tetrominoes_2"]
    assert all((path / "checkpoints" / "last.ckpt").exists() for path in Path("runs").iterdir())
