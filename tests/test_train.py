import csv
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from lightning.pytorch.loggers import WandbLogger
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import object_discovery
from object_discovery.data.datasets.tetrominoes import TetrominoesDataModule
from object_discovery.models.configs import read_config
from object_discovery.params import SlotAttentionParams, TrainerParams
from object_discovery.train import main, parse
from object_discovery.training.fit import train
from object_discovery.training.run import choose_folder
from object_discovery.training.trainer import build_model, choose_precision
from tests.checkpoints import save_tiny
from tests.data.scene_files import make_scenes, write_published
from tests.models.tiny import TINY

pytestmark = [
    pytest.mark.filterwarnings("ignore:(Experiment logs|Checkpoint) directory"),
    pytest.mark.filterwarnings("ignore:You have overridden `on_after_batch_transfer`"),
]

EPOCH = 5
"""Steps in an epoch of the runs below."""
VALIDATED = ("step", "epoch", "val/mse", "val/fg_ari")
SHOWN = {"val/fg_ari", "val/ari", "val/mbo_i", "val/miou", "val/mse", "val/active_slots", "val/n_skipped"}


def flags(**settings: Any) -> list[str]:
    """Write settings as flags."""
    return [f"--{name}={'null' if value is None else value}" for name, value in settings.items()]


def tiny(out: Path | str, **settings: Any) -> list[str]:
    """Give the flags of a small run: five steps in an epoch, a validation after every three steps."""
    here = {"out": out, "accelerator": "cpu", "devices": 1, "precision": "32-true", "num_workers": 0}
    size = {"batch_size": 4, "train_size": 4 * EPOCH, "val_size": 6, "max_steps": 4, "decay_steps": 20}
    often = {"val_interval": 3, "log_interval": 1, "num_pictures": 2}
    return flags(**{**TINY["sa"], **here, **size, **often, **settings})


def fit(out: Path, **settings: Any) -> dict[str, float]:
    return train(parse(tiny(out, **settings)))


def lines(out: Path, *names: str) -> list[tuple[str, ...]]:
    """Read columns of `metrics.csv`, where all of them have a value."""
    with (out / "metrics.csv").open(newline="") as file:
        rows = [tuple(row[name] for name in names) for row in csv.DictReader(file)]
    return [row for row in rows if all(row)]


def last(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(out / "checkpoints" / "last.ckpt", weights_only=True)
    return found


def states(out: Path) -> list[torch.Tensor]:
    """Return the weights and the optimiser's moments."""
    held = last(out)
    moments = [value for state in held["optimizer_states"][0]["state"].values() for value in state.values()]
    return [*held["state_dict"].values(), *moments]


# Settings


def test_defaults_then_the_datasets_then_the_configurations_then_flags(tmp_path: Path) -> None:
    recommended = TetrominoesDataModule.recommended
    config = tmp_path / "mine.yaml"
    config.write_text("num_slots: 9\nlr: 0.5\n")
    nothing, configured = parse([]), parse(["--config", str(config)])
    assert recommended["num_slots"] not in (9, 11, SlotAttentionParams().num_slots)
    assert recommended["max_steps"] != TrainerParams().max_steps
    assert (nothing.model_type, nothing.data.dataset) == ("sa", "tetrominoes")
    assert (nothing.model.num_slots, nothing.model.lr) == (recommended["num_slots"], SlotAttentionParams().lr)
    assert nothing.trainer.max_steps == configured.trainer.max_steps == recommended["max_steps"]
    assert (configured.model.num_slots, configured.model.lr) == (9, 0.5)
    for argv in (["--num_slots=11", "--config", str(config)], [f"--config={config}", "--num_slots", "11"]):
        both = parse(argv)
        assert (both.model.num_slots, both.model.lr) == (11, 0.5)


def test_a_configuration_names_its_dataset_and_a_flag_another(tmp_path: Path) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text("dataset: multi_dsprites\n")
    named, other = parse(["--config", str(config)]), parse(["--dataset", "tetrominoes", "--config", str(config)])
    assert (named.data.dataset, named.data.resolution, named.model.resolution) == ("multi_dsprites", 64, 64)
    assert (other.data.dataset, other.data.resolution, other.model.resolution) == ("tetrominoes", 35, 35)


@pytest.mark.parametrize("name", ["sa_clevr6", "sa_tetrominoes"])
def test_shipped_configurations_arrive_value_by_value(name: str) -> None:
    config, found = read_config(name), parse(["--config", name]).flat()
    assert None in config.values()
    assert {key: found[key] for key in config} == config


def test_null_and_lists_arrive_as_they_are(tmp_path: Path) -> None:
    channels = list(range(1, 61))  # more than YAML writes in one line
    written = {"clip_norm": None, "encoder_channels": channels, "encoder_strides": [1] * 60, "val_size": None}
    config = tmp_path / "mine.yaml"
    config.write_text(yaml.safe_dump(written))
    for argv in (["--config", str(config)], flags(**written)):
        found = parse(argv).flat()
        assert {key: found[key] for key in written} == written
    assert parse([]).model.clip_norm is not None


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("no_such: 1", r"mine.yaml has 'no_such', which is no setting of sa"),
        ("1: 2\nno_such: 1", r"mine.yaml has 1, which is no setting"),
        ("model_type: [sa]", r"`model_type` to be one of sa.*\['sa'\]"),
        ("dataset: moon", r"`dataset` to be one of .*tetrominoes.*moon"),
        ("num_slots: many", "num_slots"),
        ("lr: null", "lr"),
        ("num_slots: 0", "`num_slots` to be at least 1, but got 0"),
        ("a: [1", "is not YAML"),
    ],
)
def test_mistakes_in_a_configuration_end_in_one_line(
    text: str, named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    assert re.search(named, fails(capsys, ["--config", str(tmp_path / "mine.yaml")]))


def fails(capsys: pytest.CaptureFixture[str], argv: list[str]) -> str:
    """Run the command line, which must end in one line on stderr and status 2."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(argv)
    assert ended.value.code == 2
    printed = capsys.readouterr()
    assert re.fullmatch(r"error: [^\n]+\n", printed.err)
    assert printed.out == ""
    return printed.err


@pytest.fixture
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder of files that are not what they should be."""
    folder = tmp_path_factory.mktemp("files")
    images, labels = make_scenes([1, 2, 3, 2, 3, 1])
    write_published(folder / "tetrominoes.h5", images, labels, entities=4)
    (folder / "text").write_text("no more than text")
    save_tiny(folder / "other.ckpt", model_type="other")
    save_tiny(folder / "weights.ckpt")
    save_tiny(folder / "small.ckpt", loops={}, optimizer_states=[], lr_schedulers=[])
    return folder


@pytest.mark.parametrize(
    ("wrong", "named"),
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
        (["--max_objects", "1"], "objects, but there are none"),
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
def test_mistakes_end_in_one_line_and_leave_nothing_behind(
    wrong: list[str],
    named: str,
    files: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(files.iterdir())
    assert re.search(named, fails(capsys, [*tiny("run"), *(word.replace("FILES", str(files)) for word in wrong)]))
    assert list(tmp_path.iterdir()) == []
    assert sorted(files.iterdir()) == before


@pytest.mark.parametrize(
    ("accelerator", "cuda", "fast_gpu", "fast_cpu", "expected"),
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
def test_precision_is_chosen_by_the_hardware(
    accelerator: str, cuda: bool, fast_gpu: bool, fast_cpu: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation: fast_gpu and not including_emulation
    )
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: fast_cpu)
    assert choose_precision("auto", accelerator) == expected
    assert choose_precision("64-true", accelerator) == "64-true"


def test_on_a_mac_auto_is_single_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    assert choose_precision("auto", "auto") == "32-true"


def test_every_network_is_compiled_if_asked_to() -> None:
    for wanted in (True, False):
        model = build_model(parse(tiny("run", compile=wanted)))
        assert [network._compiled_call_impl is not None for network in model.networks()] == [wanted] * 3


# Runs


def test_a_run_leaves_its_settings_scores_checkpoints_and_pictures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    run = parse(tiny(out, clip_norm=None))
    scores = train(run)
    printed = capsys.readouterr().out
    assert parse(["--config", str(out / "params.yaml")]) == run
    assert yaml.safe_load((out / "params.yaml").read_text())["clip_norm"] is None
    assert scores.keys() >= SHOWN
    steps = [str(step) for step in range(4)]
    assert [step for step, _ in lines(out, "step", "train/loss")] == steps
    assert [step for step, _ in lines(out, "step", "train/images_per_second")] == steps
    assert [float(rate) for (rate,) in lines(out, "lr")][:3] == pytest.approx([0, 1e-3, 2e-3])
    table = lines(out, "step", *sorted(SHOWN))
    assert [row[0] for row in table] == ["2", "4"]
    assert [float(value) for value in table[-1][1:]] == pytest.approx([scores[name] for name in sorted(SHOWN)])
    assert [last(out)["global_step"], last(out)["model_type"]] == [4, "sa"]
    best = torch.load(out / "checkpoints" / "best.ckpt", weights_only=True)
    assert best["global_step"] in (3, 4)
    assert sorted(path.name for path in (out / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]
    assert [path.name for path in sorted((out / "images").iterdir())] == ["step_0000003.png", "step_0000004.png"]
    with Image.open(out / "images" / "step_0000004.png") as picture:
        assert np.asarray(picture).std() > 10
    assert "6 scenes of 16 x 16 pixels" in printed
    assert f"run: {out}\n" in printed
    assert re.search(rf"fg_ari +│ {scores['val/fg_ari']:.4f}", printed)
    assert printed.endswith(
        f"checkpoint: {out / 'checkpoints' / 'last.ckpt'}\npicture: {out / 'images' / 'step_0000004.png'}\n"
    )
    assert not object_discovery.load(out / "checkpoints" / "last.ckpt").training


def test_the_last_step_is_validated_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit(tmp_path / "a", max_steps=3, num_pictures=0)
    assert [step for step, _ in lines(tmp_path / "a", "step", "val/mse")] == ["2"]
    assert not (tmp_path / "a" / "images").exists()
    assert "picture" not in capsys.readouterr().out
    fit(tmp_path / "c", max_steps=2, val_interval=10**6)  # never validated before the end: the last is the best
    assert (tmp_path / "c" / "checkpoints" / "best.ckpt").exists()
    fit(tmp_path / "b", max_steps=10**6, max_time="00:00:00:01", val_interval=10**6)
    assert 1 < last(tmp_path / "b")["global_step"] < 10**6
    assert len(lines(tmp_path / "b", "step", "val/mse")) == 1


def test_the_best_checkpoint_is_of_the_best_validation(tmp_path: Path) -> None:
    fit(tmp_path, max_steps=9)
    scores = {int(step) + 1: float(score) for step, score in lines(tmp_path, "step", "val/fg_ari")}
    best = torch.load(tmp_path / "checkpoints" / "best.ckpt", weights_only=True)
    assert len(scores) == 3
    assert scores[best["global_step"]] == max(scores.values())


def test_the_seed_decides(tmp_path: Path) -> None:
    losses = []
    for number, seed in enumerate((1, 1, 2)):
        fit(tmp_path / str(number), seed=seed, val_interval=100)
        losses.append(lines(tmp_path / str(number), "train/loss"))
    assert losses[0] == losses[1]
    assert losses[0][0] != losses[2][0]


def test_tensorboard_is_written_if_asked_for(tmp_path: Path) -> None:
    scores = fit(tmp_path, logger="tensorboard", max_steps=3)
    found = EventAccumulator(str(tmp_path)).Reload()  # type: ignore[no-untyped-call]
    assert found.Scalars("val/fg_ari")[-1].value == pytest.approx(scores["val/fg_ari"])
    assert [event.step for event in found.Scalars("train/loss")] == [0, 1, 2]
    assert [event.step for event in found.Images("val/pictures")] == [3]
    assert (tmp_path / "metrics.csv").exists()


def test_wandb_is_written_if_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"WANDB_SILENT": "true", "WANDB_CONSOLE": "off", "WANDB_DISABLE_GIT": "true"}.items():
        monkeypatch.setenv(name, value)
    fit(tmp_path, logger="wandb", wandb_offline=True, max_steps=3)
    (written,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    end = time.monotonic() + 30  # wandb writes from a process of its own, which may lag behind
    while b"val/fg_ari" not in written.read_bytes() and time.monotonic() < end:
        time.sleep(0.1)
    assert b"val/fg_ari" in written.read_bytes()
    assert (tmp_path / "metrics.csv").exists()


def test_wandb_without_a_key_says_so_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import wandb

    def sign_in(_: WandbLogger) -> None:
        raise wandb.Error("No API key configured.")  # what a machine without a key says

    monkeypatch.setattr(WandbLogger, "experiment", property(sign_in))
    with pytest.raises(SystemExit) as stop:
        main([*tiny(tmp_path / "run"), "--logger", "wandb"])
    assert stop.value.code == 2
    assert capsys.readouterr().err == "error: No API key configured. (or add --wandb_offline true)\n"
    assert not (tmp_path / "run").exists()


# Folders


def test_folders_are_numbered_where_none_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def chosen(*argv: str) -> str:
        return str(choose_folder(parse(argv)))

    assert chosen() == chosen("--resume", "auto") == "runs/sa_tetrominoes"
    for number in ("", "_2"):
        Path(f"runs/sa_tetrominoes{number}").mkdir(parents=True)
    assert chosen() == "runs/sa_tetrominoes_3"
    assert chosen("--resume", "auto") == "runs/sa_tetrominoes_2"
    assert chosen("--dataset", "multi_dsprites") == "runs/sa_multi_dsprites"
    assert chosen("--out", "runs/sa_tetrominoes") == "runs/sa_tetrominoes"
    assert chosen("--out", "x/{model_type}-{dataset}-{seed}", "--seed", "7") == "x/sa-tetrominoes-7"
    monkeypatch.setenv("RANK", "1")  # started by torchrun or the like: another process makes the folder
    assert chosen("--resume", "auto") == "runs/sa_tetrominoes_2"
    monkeypatch.setenv("OBJECT_DISCOVERY_OUT", "runs/elsewhere")
    assert chosen() == "runs/elsewhere"


def test_two_runs_of_one_process_have_folders_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        train(parse([word for word in tiny("", max_steps=1, num_pictures=0) if not word.startswith("--out")]))
    assert sorted(path.name for path in Path("runs").iterdir()) == ["sa_tetrominoes", "sa_tetrominoes_2"]
    assert all((path / "checkpoints" / "last.ckpt").exists() for path in Path("runs").iterdir())


def test_a_run_is_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit(tmp_path, max_steps=1)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
    assert "holds a run already: add --resume auto" in fails(capsys, tiny(tmp_path, max_steps=2))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.*")} == before


# Continued runs


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train 17 steps without a break."""
    out = tmp_path_factory.mktemp("whole")
    fit(out, max_steps=17)
    return out


@pytest.mark.parametrize("stop", [5, 6, 7, 15])  # end of an epoch, after a validation, neither, both
def test_a_continued_run_is_bit_by_bit_the_same(stop: int, whole: Path, tmp_path: Path) -> None:
    fit(tmp_path, max_steps=stop)
    first = (tmp_path / "metrics.csv").read_text().splitlines()
    at_the_end = lines(tmp_path, *VALIDATED)[-1:] if stop % 3 else []
    fit(tmp_path, max_steps=17, resume="auto")
    assert (tmp_path / "metrics.csv").read_text().splitlines()[: len(first)] == first
    assert last(tmp_path)["global_step"] == 17
    expected = states(whole)
    assert len(states(tmp_path)) == len(expected)
    assert all(torch.equal(a, b) for a, b in zip(states(tmp_path), expected, strict=True))
    assert lines(tmp_path, "step", "lr") == lines(whole, "step", "lr")
    assert lines(tmp_path, "step", "epoch", "train/loss") == lines(whole, "step", "epoch", "train/loss")
    assert sorted(lines(tmp_path, *VALIDATED)) == sorted(lines(whole, *VALIDATED) + at_the_end)
    assert yaml.safe_load((tmp_path / "params.yaml").read_text())["max_steps"] == 17


def test_a_continued_run_leaves_out_what_comes_again(whole: Path, tmp_path: Path) -> None:
    fit(tmp_path, max_steps=7)
    kept = (tmp_path / "checkpoints" / "last.ckpt").read_bytes()
    fit(tmp_path, max_steps=11, resume="auto")
    (tmp_path / "checkpoints" / "early.ckpt").write_bytes(kept)
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write("0.5,")  # killed while it wrote
    fit(tmp_path, max_steps=17, resume=tmp_path / "checkpoints" / "early.ckpt")
    assert lines(tmp_path, "step", "train/loss") == lines(whole, "step", "train/loss")
    assert [step for step, _ in lines(tmp_path, "step", "val/mse")] == ["2", "5", "7", "8", "11", "14", "17"]


def test_a_run_that_has_ended_ends_again(whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = Path(shutil.copytree(whole, tmp_path / "run"))
    capsys.readouterr()
    scores = fit(out, max_steps=17, resume="auto")
    assert scores.keys() >= SHOWN
    assert "fg_ari" in capsys.readouterr().out
    assert lines(out, "step", "train/loss") == lines(whole, "step", "train/loss")
    assert last(out)["global_step"] == 17


def test_there_may_be_nothing_to_continue_yet(tmp_path: Path) -> None:
    fit(tmp_path / "run", max_steps=1, resume="auto")
    assert last(tmp_path / "run")["global_step"] == 1


# Processes


def start(argv: list[str], folder: Path) -> "subprocess.Popen[str]":
    root = str(Path(object_discovery.__file__).parents[1])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": root}
    command = [sys.executable, "-m", "object_discovery.train", *argv]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=pipe, stderr=pipe, text=True)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_a_run_that_can_be_continued(number: signal.Signals, status: int, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = start(tiny(out, max_steps=10**6, log_interval=10), tmp_path)
    assert process.stdout is not None
    try:
        printed = ""
        while not printed.startswith("step"):
            printed = process.stdout.readline()
            assert printed or process.poll() is None
        process.send_signal(number)
        rest, errors = process.communicate(timeout=10)
    finally:
        process.kill()
    assert process.returncode == status
    step = last(out)["global_step"]
    assert f"stopped at step {step}; saved {out / 'checkpoints' / 'last.ckpt'}; --resume auto --out {out}" in rest
    assert errors == ""
    fit(out, max_steps=step + 2, resume="auto")
    assert [int(found) for found, _ in lines(out, "step", "train/loss")][-2:] == [step, step + 1]
    assert last(out)["global_step"] == step + 2


def test_two_processes_train_as_one_with_batches_twice_as_large(tmp_path: Path) -> None:
    (tmp_path / "runs" / "sa_tetrominoes").mkdir(parents=True)
    settings = {"lr": 1e-4, "clip_norm": 0.1, "lr_schedule": "constant", "max_steps": 4, "val_size": 7}
    argv = tiny("", batch_size=2, devices=2, strategy="ddp", **settings)
    process = start([word for word in argv if not word.startswith("--out")], tmp_path)
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
        found = [(step, float(value)) for step, value in lines(two, "step", *names)]
        assert [step for step, _ in found] == ["2", "4"]
        assert found[-1][1] == pytest.approx(scores[names[0]], rel=1e-3, abs=1e-4)
    assert len(lines(two, "step", "train/loss")) == 4
    assert last(two)["global_step"] == 4


def test_a_run_is_continued_with_its_own_settings(tmp_path: Path) -> None:
    fit(tmp_path / "run", max_steps=3, lr=5e-4)
    run = parse(["--resume", "auto", "--out", str(tmp_path / "run"), "--max_steps", "9"])
    assert (run.model.lr, run.trainer.max_steps, run.trainer.resume) == (5e-4, 9, "auto")
    assert run.data.resolution == 16
    assert yaml.safe_load((tmp_path / "run" / "params.yaml").read_text())["resume"] is None
