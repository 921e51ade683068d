"""The command `train`: settings, error messages, signals and processes."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import object_discovery
from object_discovery.configs import read_config
from object_discovery.data.datasets.tetrominoes import TetrominoesDataModule
from object_discovery.params import SlotAttentionParams, TrainerParams
from object_discovery.train import main, parse
from tests.checkpoints import save_tiny
from tests.data.scene_files import make_scenes, write_published
from tests.training.runs import IGNORE_WARNINGS, fit, flags, load_checkpoint, read_metrics, tiny_flags

pytestmark = IGNORE_WARNINGS


# Settings


def test_flags_override_the_configuration_the_recommendation_and_the_defaults(tmp_path: Path) -> None:
    recommended = TetrominoesDataModule.recommended
    config = tmp_path / "mine.yaml"
    config.write_text("num_slots: 9\nlr: 0.5\n")
    default, configured = parse([]), parse(["--config", str(config)])
    assert recommended["num_slots"] not in (9, 11, SlotAttentionParams().num_slots)
    assert recommended["max_steps"] != TrainerParams().max_steps
    assert (default.model_type, default.data.dataset) == ("sa", "tetrominoes")
    assert (default.model.num_slots, default.model.lr) == (recommended["num_slots"], SlotAttentionParams().lr)
    assert default.trainer.max_steps == configured.trainer.max_steps == recommended["max_steps"]
    assert (configured.model.num_slots, configured.model.lr) == (9, 0.5)
    for argv in (["--num_slots=11", "--config", str(config)], [f"--config={config}", "--num_slots", "11"]):
        both = parse(argv)
        assert (both.model.num_slots, both.model.lr) == (11, 0.5)


def test_the_dataset_of_a_configuration_can_be_overridden(tmp_path: Path) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text("dataset: multi_dsprites\n")
    for argv, dataset, resolution in (([], "multi_dsprites", 64), (["--dataset", "tetrominoes"], "tetrominoes", 35)):
        run = parse([*argv, "--config", str(config)])
        assert (run.data.dataset, run.data.resolution, run.model.resolution) == (dataset, resolution, resolution)


@pytest.mark.parametrize("name", ["sa_clevr6", "sa_tetrominoes"])
def test_every_value_of_a_shipped_configuration_is_used(name: str) -> None:
    config, settings = read_config(name), parse(["--config", name]).flat()
    assert None in config.values()
    assert {key: settings[key] for key in config} == config


def test_null_and_lists_can_be_set(tmp_path: Path) -> None:
    channels = list(range(1, 61))  # more than YAML writes in one line
    values = {"clip_norm": None, "encoder_channels": channels, "encoder_strides": [1] * 60, "val_size": None}
    config = tmp_path / "mine.yaml"
    config.write_text(yaml.safe_dump(values))
    for argv in (["--config", str(config)], flags(**values)):
        settings = parse(argv).flat()
        assert {key: settings[key] for key in values} == values
    assert parse([]).model.clip_norm is not None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("no_such: 1", r"mine.yaml has 'no_such', which is not a setting of sa"),
        ("1: 2\nno_such: 1", r"mine.yaml has 1, which is not a setting"),
        ("model_type: [sa]", r"`model_type` to be one of sa.*\['sa'\]"),
        ("dataset: moon", r"`dataset` to be one of .*tetrominoes.*moon"),
        ("num_slots: many", "num_slots"),
        ("lr: null", "lr"),
        ("num_slots: 0", "`num_slots` to be at least 1, but got 0"),
        ("a: [1", "is not YAML"),
    ],
)
def test_mistakes_in_a_configuration_are_reported_in_one_line(
    text: str, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    assert re.search(expected, fails(capsys, ["--config", str(tmp_path / "mine.yaml")]))


def fails(capsys: pytest.CaptureFixture[str], argv: list[str]) -> str:
    """Run the command line, which must print one line on standard error and exit with status 2."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as error:
        main(argv)
    assert error.value.code == 2
    printed = capsys.readouterr()
    assert re.fullmatch(r"error: [^\n]+\n", printed.err)
    assert printed.out == ""
    return printed.err


@pytest.fixture
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write files that are invalid as data sets or checkpoints."""
    folder = tmp_path_factory.mktemp("files")
    images, labels = make_scenes([1, 2, 3, 2, 3, 1])
    write_published(folder / "tetrominoes.h5", images, labels, entities=4)
    (folder / "text").write_text("no more than text")
    save_tiny(folder / "other.ckpt", model_type="other")
    save_tiny(folder / "weights.ckpt")
    save_tiny(folder / "small.ckpt", loops={}, optimizer_states=[], lr_schedulers=[])
    return folder


@pytest.mark.parametrize(
    ("invalid_flags", "expected"),
    [
        (["--num_slts", "4"], "num_slts"),
        (["--resolution", "0"], "`resolution` to be at least 1, but got 0"),
        (["--resolution", "3.5"], "resolution"),
        (["--num_slots=-1"], "`num_slots` to be at least 1"),
        (["--lr", "fast"], "lr"),
        (["--encoder_channels", "[8, 8]"], "`encoder_strides` to be as long as encoder_channels"),
        (["--model_type", "oracle"], "`model_type` to be one of sa.*oracle"),
        (["--dataset", "moon"], "`dataset` to be one of .*tetrominoes.*moon"),
        (["--config", "no_such"], "sa_clevr6.*no_such"),
        (["--variant", "plaid"], "`variant` to be None"),
        (["--max_objects", "1"], "objects, but found none"),
        (["--data_root", "no/such/file.h5"], "no/such/file.h5"),
        (["--data_root", "FILES/text"], "text"),
        (["--data_root", "FILES/tetrominoes.h5", "--dataset", "multi_dsprites"], "multi_dsprites"),
        (["--out", "FILES/text/run"], "Not a directory"),
        (["--out", "runs/{who}"], r"`out` to have .* in braces only"),
        (["--resume", "no_such.ckpt"], "There is no checkpoint at no_such.ckpt"),
        (["--resume", "FILES/text"], "is not a checkpoint that can be read"),
        (["--resume", "FILES/other.ckpt"], "of model type sa, but .*other.ckpt is of other"),
        (["--resume", "FILES/weights.ckpt"], "has the weights only"),
        (["--resume", "FILES/small.ckpt"], r"this model, but .*small.ckpt is .* instead of .*params.yaml"),
        (["--precision", "perfect"], "perfect"),
        (["--accelerator", "abacus"], "abacus"),
        (["--strategy", "luck"], "luck"),
        (["--devices", "[1"], "flow sequence"),
        (["--devices", "0"], "devices"),
        (["--max_time", "soon"], "DD:HH:MM:SS"),
        (["--logger", "paper"], "logger"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_are_reported_in_one_line_and_nothing_is_written(
    invalid_flags: list[str],
    expected: str,
    files: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(files.iterdir())
    arguments = [argument.replace("FILES", str(files)) for argument in invalid_flags]
    assert re.search(expected, fails(capsys, [*tiny_flags("run"), *arguments]))
    assert list(tmp_path.iterdir()) == []
    assert sorted(files.iterdir()) == before


def test_a_run_is_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit(tmp_path, max_steps=1)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
    assert "holds a run already: add --resume auto" in fails(capsys, tiny_flags(tmp_path, max_steps=2))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.*")} == before


# Processes


def start(argv: list[str], folder: Path) -> "subprocess.Popen[str]":
    """Start a run in another process."""
    root = str(Path(object_discovery.__file__).parents[1])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": root}
    command = [sys.executable, "-m", "object_discovery.train", *argv]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=pipe, stderr=pipe, text=True)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_run_stopped_by_a_signal_can_be_continued(number: signal.Signals, status: int, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = start(tiny_flags(out, max_steps=10**6, log_interval=10), tmp_path)
    assert process.stdout is not None
    try:
        printed = ""
        while not printed.startswith("step"):
            printed = process.stdout.readline()
            assert printed or process.poll() is None
        process.send_signal(number)
        output, errors = process.communicate(timeout=10)
    finally:
        process.kill()
    assert process.returncode == status
    step = load_checkpoint(out)["global_step"]
    assert f"stopped at step {step}; saved {out / 'checkpoints' / 'last.ckpt'}; --resume auto --out {out}" in output
    assert errors == ""
    fit(out, max_steps=step + 2, resume="auto")
    assert [int(row_step) for row_step, _ in read_metrics(out, "step", "train/loss")][-2:] == [step, step + 1]
    assert load_checkpoint(out)["global_step"] == step + 2


def test_two_processes_train_like_one_with_twice_the_batch_size(tmp_path: Path) -> None:
    (tmp_path / "runs" / "sa_tetrominoes").mkdir(parents=True)
    settings = {"lr": 1e-4, "clip_norm": 0.1, "lr_schedule": "constant", "max_steps": 4, "val_size": 7}
    argv = tiny_flags("", batch_size=2, devices=2, strategy="ddp", **settings)
    process = start([argument for argument in argv if not argument.startswith("--out")], tmp_path)
    try:
        printed, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0, errors
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["sa_tetrominoes", "sa_tetrominoes_2"]
    two, one = tmp_path / "runs" / "sa_tetrominoes_2", tmp_path / "one"
    assert printed.count("run: ") == printed.count("checkpoint: ") == 1
    scores = fit(one, batch_size=4, **settings)
    for names in (["val/mse"], ["val/fg_ari"], ["val/miou"]):
        rows = [(step, float(value)) for step, value in read_metrics(two, "step", *names)]
        assert [step for step, _ in rows] == ["2", "4"]
        assert rows[-1][1] == pytest.approx(scores[names[0]], rel=1e-3, abs=1e-4)
    assert len(read_metrics(two, "step", "train/loss")) == 4
    assert load_checkpoint(two)["global_step"] == 4
