from pathlib import Path

import pytest
import torch
from PIL import Image

from object_discovery import SLATE
from object_discovery.discovery import Discovery
from object_discovery.errors import UserError
from object_discovery.predict import main
from object_discovery.prediction.compose import composition_picture, edited_slots, main_objects
from tests.checkpoints import save_tiny
from tests.models.tiny import SIZE, TINY, make_images, make_model, make_trainer


def make() -> SLATE:
    model = make_model("slate")
    assert isinstance(model, SLATE)
    with torch.no_grad():
        for layer in (model.decoder.to_logits, model.decoder.from_slots):
            layer.weight *= 10  # so that slots matter
    return model.eval()


def save(path: Path) -> Path:
    trainer = make_trainer(1)
    trainer.strategy.connect(make())
    trainer.save_checkpoint(path, weights_only=True)
    return path


def write_images(folder: Path, count: int) -> Path:
    folder.mkdir()
    for number in range(count):
        Image.new("RGB", (20, 20), (number * 60, 100, 200 - number * 50)).save(folder / f"{number}.png")
    return folder


def test_the_main_object_is_the_largest_that_is_not_the_background() -> None:
    labels = torch.tensor([[[2, 2, 2, 2], [2, 0, 1, 2], [2, 1, 1, 2], [2, 2, 2, 2]], [[0, 0, 1, 0]] * 4])
    masks = torch.nn.functional.one_hot(labels, 3).permute(0, 3, 1, 2).float()
    assert main_objects(Discovery(torch.zeros(2, 3, 4), masks)).tolist() == [1, 1]


def test_objects_are_removed_exchanged_and_added() -> None:
    slots = torch.arange(9.0).view(3, 3, 1)
    edited = edited_slots(slots, torch.tensor([0, 2, 1]))
    flat = {name: value.flatten(1).tolist() for name, value in edited.items()}
    assert flat == {
        "removed": [[1, 2], [3, 4], [6, 8]],
        "exchanged": [[5, 1, 2], [3, 4, 7], [6, 0, 8]],
        "added": [[0, 1, 2, 5], [3, 4, 5, 7], [6, 7, 8, 0]],
    }
    assert slots.flatten().tolist() == list(range(9))


def test_the_picture_has_a_column_for_each_scene() -> None:
    model, images = make(), make_images(2)
    picture = composition_picture(model, images)
    scale, columns = 128 // SIZE, 2 + 3 + 1 + 3
    assert picture.shape[2] == columns * (128 + 4) + 4
    rows = picture[:, -2 * 132 - 4 :]
    tiles = [
        [rows[:, 4 + 132 * row :, 4 + 132 * column :][:, :128:scale, :128:scale] for column in range(columns)]
        for row in range(2)
    ]
    found = model(images)
    objects = main_objects(found)
    composed = {name: model.compose(slots) for name, slots in edited_slots(found.slots, objects).items()}
    for row in range(2):
        mask = found.masks[row, objects[row]]
        expected = [images[row], model.reconstruct(images)[row], images[row] * mask + 1 - mask]
        expected += [composed[name][row] for name in ("removed", "exchanged", "added")]
        for column, image in zip((0, 1, 5, 6, 7, 8), expected, strict=True):
            assert torch.equal(tiles[row][column], (image * 255).round().byte()), column


@pytest.mark.parametrize("crop", [[], ["--crop"]])
def test_the_command_writes_the_picture(crop: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint, out = save(tmp_path / "slate.ckpt"), tmp_path / "out"
    images = write_images(tmp_path / "in", 3)
    main([str(images), "--checkpoint", str(checkpoint), "--compose", "--limit", "2", "--out", str(out), *crop])
    assert capsys.readouterr().out == f"{out / 'composed.png'}\n"
    assert [path.name for path in out.iterdir()] == ["composed.png"]
    with Image.open(out / "composed.png") as picture:
        assert picture.width == (2 + TINY["slate"]["num_slots"] + 4) * 132 + 4


def test_damaged_images_are_skipped_in_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images, options = write_images(tmp_path / "in", 3), ["--compose", "--out", str(tmp_path / "out"), "--checkpoint"]
    options.append(str(save(tmp_path / "slate.ckpt")))
    damaged = images / "0.png"
    damaged.write_bytes(damaged.read_bytes()[:60])
    main([str(images), *options])
    assert "warning: skipped: " in capsys.readouterr().err
    assert (tmp_path / "out" / "composed.png").exists()
    with pytest.raises(SystemExit):
        main([str(damaged), str(images), *options])
    assert "0.png cannot be read" in capsys.readouterr().err
    (images / "1.png").write_bytes(damaged.read_bytes())
    (images / "2.png").write_bytes(damaged.read_bytes())
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main([str(images), *options])
    assert "at least 2 images to compose scenes of, but got 0" in capsys.readouterr().err


def test_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images, out = write_images(tmp_path / "in", 2), tmp_path / "out"
    slate, other = save(tmp_path / "slate.ckpt"), save_tiny(tmp_path / "sa.ckpt")
    for arguments, message in (
        (["--checkpoint", str(other)], f"but {other} is of model type sa"),
        (["--checkpoint", str(slate), "--limit", "1"], "Expected at least 2 images to compose scenes of, but got 1"),
        (["--checkpoint", str(slate), "--num_slots", "1"], "Expected at least 2 slots to compose scenes of, but got 1"),
    ):
        with pytest.raises(SystemExit) as caught:
            main([str(images), "--compose", "--out", str(out), *arguments])
        assert caught.value.code == 2
        assert message in capsys.readouterr().err
    with pytest.raises(UserError, match="at least 2 images"):
        composition_picture(make(), make_images(1))
