import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from object_discovery.predict import main
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


def run(*arguments: object) -> None:
    main([str(argument) for argument in arguments])


def fails(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    with pytest.raises(SystemExit) as caught:
        run(*arguments)
    assert caught.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert message.count("\n") == 1
    return message


def test_folders_and_files_of_many_sizes(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
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
        result = json.loads((out / name / "objects.json").read_text())
        assert (result["size"], result["resolution"], result["model_type"]) == (size, 16, "sa")
        assert list(Image.open(out / name / "labels.png").size) == size
    assert str(out / "overview.png") in printed.out
    assert printed.err.startswith("warning: skipped: ")
    assert "notes.txt" in printed.err


def test_images_of_one_name_do_not_overwrite_each_other(checkpoint: Path, tmp_path: Path) -> None:
    paths = [write_image(tmp_path / folder / "a.png", seed=seed) for seed, folder in enumerate("xyz")]
    own = tmp_path / "out" / "a"
    own.mkdir(parents=True)
    (own / "picture.png").write_text("the user's own")
    for _ in range(2):  # the second run finds its own folders again
        run(paths[0], paths[1], "--checkpoint", checkpoint, "--out", tmp_path / "out")
    run(paths[2], "--checkpoint", checkpoint, "--out", tmp_path / "out")
    assert (own / "picture.png").read_text() == "the user's own"
    for path, name in zip(paths, ("a_2", "a_3", "a_4"), strict=True):
        assert json.loads((tmp_path / "out" / name / "objects.json").read_text())["image"] == str(path)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"a", "a_2", "a_3", "a_4", "overview.png"}


def test_limit_slots_iterations_and_crop(checkpoint: Path, tmp_path: Path) -> None:
    for name in "abc":
        write_image(tmp_path / "in" / f"{name}.png")
    out = tmp_path / "out"
    options = ["--limit", "2", "--num_slots", "2", "--num_iterations", "1", "--crop"]
    run(tmp_path / "in", "--checkpoint", checkpoint, "--out", out, *options)
    assert {path.name for path in out.iterdir()} == {"a", "b", "overview.png"}
    result = json.loads((out / "a" / "objects.json").read_text())
    assert (result["num_slots"], result["num_iterations"], result["crop"]) == (2, 1, [0, 5, 20, 25])
    assert {slot["slot"] for slot in result["slots"]} <= {0, 1}


def test_what_is_not_named_is_taken_from_the_defaults(checkpoint: Path, tmp_path: Path) -> None:
    image = write_image(tmp_path / "scenes" / "a.png")
    main(["--out", str(tmp_path / "out")], checkpoint=checkpoint, images=[tmp_path / "scenes"])
    assert json.loads((tmp_path / "out" / "a" / "objects.json").read_text())["image"] == str(image)


def test_shipped_checkpoint_and_scenes_are_used_without_arguments(tmp_path: Path) -> None:
    main(["--out", str(tmp_path)])
    assert {path.name for path in tmp_path.iterdir()} >= {path.stem for path in SCENES.iterdir()}
    assert json.loads((tmp_path / "tetrominoes_0" / "objects.json").read_text())["checkpoint"] == str(CHECKPOINT)


def test_damaged_images_are_skipped_in_folders_and_refused_by_name(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_image(tmp_path / "in" / "good.png")
    damaged = write_image(tmp_path / "in" / "damaged.png", (64, 64))
    damaged.write_bytes(damaged.read_bytes()[:4000])
    options = ["--checkpoint", checkpoint, "--out", tmp_path / "out"]
    assert "damaged.png cannot be read" in fails(capsys, damaged, *options)
    assert not (tmp_path / "out").exists()
    run(tmp_path / "in", *options)
    assert "warning: skipped: " in capsys.readouterr().err
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"good", "overview.png"}
    (tmp_path / "in" / "good.png").unlink()
    with pytest.raises(SystemExit):
        run(tmp_path / "in", *options)
    assert "none of the files could be read" in capsys.readouterr().err


def test_mistakes_end_in_one_line_and_leave_nothing(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image, out = write_image(tmp_path / "a.png"), tmp_path / "out"
    (tmp_path / "notes.txt").write_text("no image")
    there = ["--checkpoint", checkpoint, "--out", out]
    assert "is no image" in fails(capsys, image, tmp_path / "notes.txt", *there)
    assert "does not exist" in fails(capsys, tmp_path / "nowhere.png", *there)
    assert "There is no checkpoint" in fails(capsys, image, "--checkpoint", tmp_path / "nowhere.ckpt", "--out", out)
    assert "not a checkpoint" in fails(capsys, image, "--checkpoint", tmp_path / "notes.txt", "--out", out)
    assert "`num_slots` to be at most 3" in fails(capsys, image, *there, "--num_slots", "4")
    assert "`limit` to be at least 1, but got 0" in fails(capsys, image, *there, "--limit", "0")
    assert "`seed` to be from 0 to 2**32 - 1" in fails(capsys, image, *there, "--seed", str(2**64))
    assert "--slots" in fails(capsys, image, *there, "--slots", "2")
    assert "no folder" in fails(capsys, image, "--checkpoint", checkpoint, "--out", image)
    assert {path.name for path in tmp_path.iterdir()} == {"a.png", "notes.txt", "tiny.ckpt"}
