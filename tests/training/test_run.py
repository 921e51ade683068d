"""Output folder of a run."""

from pathlib import Path

import pytest

from object_discovery.train import parse
from object_discovery.training.run import choose_folder, prepare_folder
from tests.training.runs import tiny_flags


def choose(*argv: str) -> str:
    return str(choose_folder(parse(argv)))


def test_default_folder_is_numbered_if_it_exists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert choose() == choose("--resume", "auto") == "runs/sa_tetrominoes"
    for number in ("", "_2"):
        Path(f"runs/sa_tetrominoes{number}").mkdir(parents=True)
    assert choose() == "runs/sa_tetrominoes_3"
    assert choose("--resume", "auto") == "runs/sa_tetrominoes_2"
    assert choose("--dataset", "multi_dsprites") == "runs/sa_multi_dsprites"


def test_given_folder_is_not_numbered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("runs/mine").mkdir(parents=True)
    assert choose("--out", "runs/mine") == "runs/mine"
    assert choose("--out", "x/{model_type}-{dataset}-{seed}", "--seed", "7") == "x/sa-tetrominoes-7"


def test_all_processes_of_a_run_choose_the_same_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("runs/sa_tetrominoes").mkdir(parents=True)
    monkeypatch.setenv("RANK", "1")  # started by torchrun or the like, as the first process, which creates the folder
    assert choose() == "runs/sa_tetrominoes"
    monkeypatch.setenv("OBJECT_DISCOVERY_OUT", "runs/elsewhere")
    assert choose() == "runs/elsewhere"


def test_the_settings_are_written(tmp_path: Path) -> None:
    run = parse(tiny_flags(tmp_path / "run", clip_norm=None))
    prepare_folder(run, tmp_path / "run")
    assert parse(["--config", str(tmp_path / "run" / "params.yaml")]) == run
