from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from object_discovery.cli.generate import main
from object_discovery.models import ObjectDiscoveryModel
from object_discovery.prediction.generate import generate, mosaic
from tests.checkpoints import save_tiny
from tests.models.tiny import SIZE, make_model, make_trainer


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gnm") / "gnm.ckpt"
    trainer = make_trainer(1)
    model: ObjectDiscoveryModel = make_model("gnm")  # type: ignore[type-arg]
    trainer.strategy.connect(model)
    trainer.save_checkpoint(path, weights_only=True)
    return path


def test_the_command_writes_each_scene_and_a_picture_of_all(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "out"
    main(["--num", "3", "--checkpoint", str(checkpoint), "--out", str(out)])
    assert {path.name for path in out.iterdir()} == {"generated", "generated.png", "generated_slots.png"}
    assert sorted(path.name for path in (out / "generated").iterdir()) == ["0000.png", "0001.png", "0002.png"]
    assert capsys.readouterr().out.strip() == str(out / "generated.png")
    single = np.asarray(Image.open(out / "generated" / "0000.png"))
    assert single.shape == (SIZE, SIZE, 3)
    mosaic_pixels = np.asarray(Image.open(out / "generated.png"))
    assert np.array_equal(mosaic_pixels[4:132:8, 4:132:8], single)


def test_images_of_an_earlier_run_are_removed(checkpoint: Path, tmp_path: Path) -> None:
    generate(checkpoint, 3, tmp_path)
    (tmp_path / "generated" / "other.png").touch()
    generate(checkpoint, 1, tmp_path)
    assert sorted(path.name for path in (tmp_path / "generated").iterdir()) == ["0000.png", "other.png"]


def test_the_seed_determines_the_scenes(checkpoint: Path, tmp_path: Path) -> None:
    pictures = [generate(checkpoint, 1, tmp_path / str(i), seed=seed) for i, seed in enumerate((0, 0, 1))]
    first, same, other = (path.read_bytes() for path in pictures)
    assert first == same != other


def test_mosaics_are_nearly_square() -> None:
    images = torch.arange(5, dtype=torch.uint8).view(5, 1, 1, 1).expand(5, 3, 64, 64)
    picture = mosaic(images)
    assert picture.shape == (3, 2 * 132 + 4, 3 * 132 + 4)
    centres = picture[0, 68::132, 68::132]
    assert centres.tolist() == [[0, 1, 2], [3, 4, 255]]


def test_mistakes_are_reported_in_one_line(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = save_tiny(tmp_path / "sa.ckpt")
    for arguments, expected in (
        (["--checkpoint", str(checkpoint), "--num", "0"], "`num` to be at least 1, but got 0"),
        (["--checkpoint", str(file)], "samples scenes, such as gnm"),
        (["--checkpoint", str(checkpoint), "--num_slots", "9"], "`num_slots` to be from 1 to 5"),
        (["--checkpoint", str(checkpoint), "--seed", "-1"], "`seed` to be from 0 to 2**32 - 1"),
        (["--checkpoint", str(checkpoint), "--out", str(file)], "no folder"),
        (["--num", "1"], "`checkpoint` to be a trained model"),
        (["a.png", "--checkpoint", str(checkpoint)], "a.png"),
    ):
        with pytest.raises(SystemExit) as error:
            main(["--out", str(tmp_path / "out"), *arguments])
        assert error.value.code == 2
        message = capsys.readouterr().err
        assert message.startswith("error: ")
        assert message.count("\n") == 1
        assert expected in message
    assert not (tmp_path / "out").exists()
