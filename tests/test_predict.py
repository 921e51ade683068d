"""The command `predict`."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from object_discovery.models.base import ObjectDiscoveryModel
from object_discovery.models.loading import load_for_inference
from object_discovery.predict import main
from object_discovery.prediction import files
from object_discovery.pretrained import CHECKPOINT, SCENES
from tests.checkpoints import save_tiny


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return save_tiny(tmp_path / "tiny.ckpt")


def write_image(path: Path, size: tuple[int, int] = (20, 30), seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def write_damaged_image(path: Path) -> Path:
    path.write_bytes(write_image(path, (64, 64)).read_bytes()[:4000])
    return path


def run(*arguments: object) -> None:
    main([str(argument) for argument in arguments])


def fails(capsys: pytest.CaptureFixture[str], *arguments: object) -> list[str]:
    """Run the command, which must exit with status 2, and return its lines on standard error."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as error:
        run(*arguments)
    assert error.value.code == 2
    return capsys.readouterr().err.splitlines()


def read_result(folder: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((folder / "objects.json").read_text())
    return result


def test_folders_and_files_of_any_image_size(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_image(tmp_path / "in" / "a.png")
    write_image(tmp_path / "in" / "b.jpg", (50, 10))
    (tmp_path / "in" / "notes.txt").write_text("no image")
    single = write_image(tmp_path / "c.bmp", (16, 16))
    out = tmp_path / "out"
    run(tmp_path / "in", single, "--checkpoint", checkpoint, "--out", out, "--batch_size", "2")
    printed = capsys.readouterr()
    assert {path.name for path in out.iterdir()} == {"a", "b", "c", "overview.png"}
    for name, size in (("a", [20, 30]), ("b", [50, 10]), ("c", [16, 16])):
        assert str(out / name / "picture.png") in printed.out
        result = read_result(out / name)
        assert (result["size"], result["resolution"], result["model_type"]) == (size, 16, "sa")
        assert list(Image.open(out / name / "labels.png").size) == size
    assert str(out / "overview.png") in printed.out
    assert printed.err.startswith("warning: skipped: ")
    assert "notes.txt" in printed.err


def test_images_of_the_same_name_have_different_folders(checkpoint: Path, tmp_path: Path) -> None:
    paths = [write_image(tmp_path / folder / "a.png", seed=seed) for seed, folder in enumerate("xyz")]
    other_folder = tmp_path / "out" / "a"
    other_folder.mkdir(parents=True)
    (other_folder / "picture.png").write_text("not a result")
    for _ in range(2):  # the second run uses the same folders again
        run(paths[0], paths[1], "--checkpoint", checkpoint, "--out", tmp_path / "out")
    run(paths[2], "--checkpoint", checkpoint, "--out", tmp_path / "out")
    assert (other_folder / "picture.png").read_text() == "not a result"
    for path, name in zip(paths, ("a_2", "a_3", "a_4"), strict=True):
        assert read_result(tmp_path / "out" / name)["image"] == str(path)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"a", "a_2", "a_3", "a_4", "overview.png"}


def test_limit_slots_and_iterations(checkpoint: Path, tmp_path: Path) -> None:
    for name in "abc":
        write_image(tmp_path / "in" / f"{name}.png")
    out = tmp_path / "out"
    options = ["--limit", "2", "--num_slots", "2", "--num_iterations", "1"]
    run(tmp_path / "in", "--checkpoint", checkpoint, "--out", out, *options)
    assert {path.name for path in out.iterdir()} == {"a", "b", "overview.png"}
    result = read_result(out / "a")
    assert (result["num_slots"], result["num_iterations"]) == (2, 1)
    assert {slot["slot"] for slot in result["slots"]} <= {0, 1}


def test_results_have_the_slots_and_iterations_of_the_model(checkpoint: Path, tmp_path: Path) -> None:
    run(write_image(tmp_path / "a.png"), "--checkpoint", checkpoint, "--out", tmp_path)
    result = read_result(tmp_path / "a")
    assert (result["num_slots"], result["num_iterations"]) == (3, 1)


def add_run_info(monkeypatch: pytest.MonkeyPatch, **info: Any) -> None:
    """Make loaded models have this information about their training run."""

    def load_with_info(*arguments: Any) -> ObjectDiscoveryModel[Any]:
        model = load_for_inference(*arguments)
        model.run_info = info
        return model

    monkeypatch.setattr(files, "load_for_inference", load_with_info)


@pytest.mark.parametrize(
    ("trained_fit", "flag", "crop"),
    [
        (None, None, [0, 5, 20, 25]),
        (None, "squash", [0, 0, 20, 30]),
        ("squash", None, [0, 0, 20, 30]),
        ("squash", "crop", [0, 5, 20, 25]),
        ("crop", None, [0, 5, 20, 25]),
    ],
)
def test_default_fit_is_that_of_training(
    trained_fit: str | None,
    flag: str | None,
    crop: list[int],
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if trained_fit:
        add_run_info(monkeypatch, fit=trained_fit)
    options = ["--fit", flag] if flag else []
    run(write_image(tmp_path / "a.png"), "--checkpoint", checkpoint, "--out", tmp_path, *options)
    assert read_result(tmp_path / "a")["crop"] == crop


def test_a_large_reconstruction_error_is_reported(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    image, options = write_image(tmp_path / "a.png"), ["--checkpoint", checkpoint, "--out", tmp_path]
    run(image, *options)
    assert capsys.readouterr().err == ""  # the error of the validation scenes is unknown
    with monkeypatch.context() as patch:
        add_run_info(patch, dataset="tetrominoes", validation={"mse": 1e-3})
        run(image, *options)
    assert capsys.readouterr().err.startswith(f"warning: {image}: reconstruction error 0.")
    with monkeypatch.context() as patch:
        add_run_info(patch, dataset="tetrominoes", validation={"mse": 0.5})
        run(image, *options)
    assert capsys.readouterr().err == ""


def test_the_reported_error_is_relative_to_the_validation_scenes(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(files, "reconstruction_error", lambda image, target: torch.tensor([0.21]))
    add_run_info(monkeypatch, dataset="tetrominoes", validation={"mse": 0.00525})
    image = write_image(tmp_path / "photo.png")
    run(image, "--checkpoint", checkpoint, "--out", tmp_path)
    assert capsys.readouterr().err == (
        f"warning: {image}: reconstruction error 0.21, 40 times that of the validation scenes: "
        "the model was trained on other images (tetrominoes)\n"
    )


def test_the_shipped_checkpoint_and_scenes_are_the_defaults(tmp_path: Path) -> None:
    run("--out", tmp_path)
    assert {path.name for path in tmp_path.iterdir()} >= {path.stem for path in SCENES.iterdir()}
    assert read_result(tmp_path / "tetrominoes_0")["checkpoint"] == str(CHECKPOINT)


def test_images_are_optional_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run("--help")
    text = capsys.readouterr().out
    assert text.startswith("usage: object-discovery predict [IMAGE|FOLDER ...] [--FLAG VALUE ...]\n")
    assert "required" not in text


@pytest.mark.parametrize("batch_size", [1, 16])
def test_damaged_images_are_skipped_and_the_status_is_2(
    batch_size: int, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = write_image(tmp_path / "in" / "good.png")
    damaged = write_damaged_image(tmp_path / "in" / "damaged.png")
    (tmp_path / "notes.txt").write_text("no image")
    options = ["--checkpoint", checkpoint, "--batch_size", batch_size]
    for index, paths in enumerate(([damaged, good], [tmp_path / "in"], [tmp_path / "notes.txt", good])):
        out = tmp_path / str(index)
        (line,) = fails(capsys, *paths, *options, "--out", out)
        assert line.startswith("warning: skipped: ")
        assert ("notes.txt" if index == 2 else "damaged.png") in line
        assert {path.name for path in out.iterdir()} == {"good", "overview.png"}


def test_no_readable_image_is_an_error(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damaged = [write_damaged_image(tmp_path / f"{name}.png") for name in "ab"]
    options = ["--checkpoint", checkpoint, "--out", tmp_path / "out"]
    (line,) = fails(capsys, damaged[0], *options)
    assert line.startswith("error: ")
    assert "a.png" in line
    *warnings, line = fails(capsys, *damaged, *options)
    assert len(warnings) == 2
    assert line == "error: Expected some images, but none of the files could be read"
    assert not (tmp_path / "out").exists()


def test_mistakes_are_reported_in_one_line_and_nothing_is_written(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image, out = write_image(tmp_path / "a.png"), tmp_path / "out"
    notes = tmp_path / "notes.txt"
    notes.write_text("no image")
    options = ["--checkpoint", checkpoint, "--out", out]
    for arguments, expected in (
        ([notes, *options], "is no image"),
        ([tmp_path / "nowhere.png", *options], "does not exist"),
        ([image, "--checkpoint", tmp_path / "nowhere.ckpt", "--out", out], "There is no checkpoint"),
        ([image, "--checkpoint", notes, "--out", out], "not a checkpoint"),
        ([image, *options, "--num_slots", "4"], "`num_slots` to be at most 3"),
        ([image, *options, "--limit", "0"], "`limit` to be at least 1, but got 0"),
        ([image, *options, "--seed", str(2**64)], "`seed` to be from 0 to 2**32 - 1"),
        ([image, *options, "--confidence", "2"], "`confidence` to be in [0, 1]"),
        ([image, *options, "--fit", "stretch"], "fit"),
        ([image, *options, "--slots", "2"], "--slots"),
        ([image, "--checkpoint", checkpoint, "--out", image], "no folder"),
    ):
        (line,) = fails(capsys, *arguments)
        assert line.startswith("error: ")
        assert expected in line
    assert {path.name for path in tmp_path.iterdir()} == {"a.png", "notes.txt", "tiny.ckpt"}
